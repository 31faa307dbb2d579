"""The command explain."""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.backends import BACKENDS, TITLES
from inference.commands.options import (
    add_content,
    add_model_command,
    load_model,
    names,
    print_json,
    read_stdin,
    require_writable,
)
from inference.errors import InputError
from inference.explain.explanation import METHOD_TITLES, METHODS, OCCLUSION, Explanation
from inference.explain.run import explain
from inference.jobs import Progress, ProgressLine

if TYPE_CHECKING:
    from inference.calls.texts import Text
    from inference.classifier import Classifier

BAR_WIDTH = 14
MAX_WORD_WIDTH = 28
PROGRESS_AFTER_S = 1.0


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    p = add_model_command(commands, "explain", explain_command, "Explain which words of a text led to its label.")
    p.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads it from stdin")
    p.add_argument("--pair", metavar="TEXT", help="the second text, for a model that takes pairs of texts")
    p.add_argument("--task", help="default: all")
    p.add_argument("--label", help="label to explain (default: the predicted one)")
    help = "occlusion leaves out one word at a time, on any runtime; gradients need PyTorch (default: %(default)s)"
    p.add_argument("--method", choices=METHODS, default=OCCLUSION, help=help)
    p.add_argument("--backend", choices=BACKENDS, help="runtime (default: the model's first, usually pytorch)")
    help = "explain on each of these comma-separated runtimes, and report how far they agree"
    p.add_argument("--compare", type=names, metavar="BACKENDS", help=help)
    p.add_argument("--budget", type=float, metavar="SECONDS", help="time limit (default: none)")
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    add_content(p)
    help = "without TEXT: test on the showcase whether top words matter more than random ones (takes minutes)"
    p.add_argument("--check", action="store_true", help=help)
    p.add_argument("--out", type=Path, metavar="FILE", help="with --check: also add the record to this JSON file")


def explain_command(args: argparse.Namespace) -> None:
    if args.check:
        _check_faithfulness(args)
        return
    if args.out:
        raise InputError("--out needs --check. Leave it out.")
    if args.text is None:
        raise InputError('explain needs a TEXT, such as "what a lovely film".')
    if args.compare and (args.backend or args.budget):
        raise InputError("--compare cannot be combined with --backend or --budget. Leave the other option out.")
    backends = args.compare or [args.backend]
    if args.compare and (len(backends) < 2 or len(set(backends)) < len(backends)):
        raise InputError(f"--compare {','.join(backends)}: pass two or more different runtimes, such as onnx,int8.")
    first = read_stdin() if args.text == "-" else args.text  # as a single text
    text = first if args.pair is None else (first, args.pair)
    classifiers = [load_model(args, name) for name in backends]
    tasks = [classifiers[0].one_task(args.task)] if args.task or args.label else list(classifiers[0].tasks)
    if args.compare:
        _print_comparisons(args, classifiers, text, tasks)
    else:
        _print_explanations(args, classifiers[0], text, tasks)


def _print_explanations(args: argparse.Namespace, classifier: Classifier, text: Text, tasks: Sequence[str]) -> None:
    with _progress(args) as progress:
        explanations = [
            explain(classifier, text, task, args.label, args.method, budget_s=args.budget, progress=progress)
            for task in tasks
        ]
    if args.json:
        print_json({"model": classifier.bundle.name, "explanations": [e.to_dict() for e in explanations]})
    else:
        print("\n\n".join(map(format_explanation, explanations)))


def _print_comparisons(
    args: argparse.Namespace, classifiers: list[Classifier], text: Text, tasks: Sequence[str]
) -> None:
    from inference.explain.agreement import agreement_sentence, compare_explanations

    by_name = {classifier.backend.name: classifier for classifier in classifiers}
    with _progress(args) as progress:
        comparisons = [compare_explanations(by_name, text, task, args.label, args.method, progress) for task in tasks]
    if args.json:
        print_json({"model": classifiers[0].bundle.name, "comparisons": [c.to_dict() for c in comparisons]})
        return
    first, paragraphs = next(iter(by_name)), []
    for comparison in comparisons:
        sentences = [printable(agreement_sentence(a, first, name)) for name, a in comparison.agreements.items()]
        paragraphs.append("\n".join([*map(format_explanation, comparison.explanations.values()), *sentences]))
    print("\n\n".join(paragraphs))


def _check_faithfulness(args: argparse.Namespace) -> None:
    from inference.assets import SHOWCASE, showcase_texts
    from inference.explain import faithfulness
    from inference.formats.files import sha256

    if args.text or args.pair or args.label or args.compare or args.budget:
        raise InputError(
            "--check uses the texts of the showcase and the predicted labels: leave out TEXT, --label, --compare and "
            "--budget."
        )
    if args.out:
        require_writable(args.out)
        faithfulness.read_records(args.out)  # raises now, not after minutes, if the file holds something else
    classifier = load_model(args, args.backend)
    tasks = None if args.task is None else [args.task]
    with _progress(args) as progress:
        figures = faithfulness.measure_faithfulness(
            classifier, showcase_texts(), args.method, tasks=tasks, progress=progress
        )
    record = faithfulness.make_record(classifier, args.method, figures, sha256(SHOWCASE))
    if args.out:
        faithfulness.add_record(args.out, record)
    if args.json:
        print_json(record)
        return
    for task in figures:
        print("\n".join([task, *(f"  {sentence}" for sentence in faithfulness.faithfulness_sentences(record, task))]))


def format_explanation(explanation: Explanation) -> str:
    """Format an explanation for a terminal: a line per word with its attribution as a number and a bar."""
    e = explanation
    predicted = "" if e.label == e.predicted else f" (the model predicts {e.predicted})"
    head = (
        f"{e.task}: {e.label} {e.score:.4f}{predicted}, log-odds {e.log_odds:+.3f}; "
        f"{METHOD_TITLES[e.method]} on {TITLES.get(e.backend, e.backend)}, {e.seconds:.2f} s"
    )
    if e.convergence_delta is not None:
        head += (
            f"\nfrom padding at {e.baseline_log_odds:+.3f} in {e.n_steps} steps; the attributions miss the "
            f"difference by {e.convergence_delta:+.4f}"
        )
    largest = max((abs(word.attribution or 0.0) for word in e.words), default=0.0)
    width = max((columns(_short(word.text)) for word in e.words), default=0)
    lines = [printable(head)]
    for number, word in enumerate(e.words):
        if e.second_text is not None and (number == 0 or word.in_text != e.words[number - 1].in_text):
            lines.append(f" {('first', 'second')[word.in_text]} text")
        shown, value = _short(word.text), word.attribution
        figure = " (not tried)" if value is None else f"{value:+9.3f}  {_bar(value, largest)}"
        without = "" if word.without is None else f"  without it {word.without:.4f}"
        lines.append(f"  {shown}{' ' * (width - columns(shown))}{figure}{without}")
    return "\n".join([*(line.rstrip() for line in lines), *(f"note: {note}" for note in e.notes)])


def _bar(value: float, largest: float) -> str:
    length = round(abs(value) / largest * BAR_WIDTH) if largest else 0
    left, right = ("░" * length, "") if value < 0 else ("", "█" * length)
    return f"{left:>{BAR_WIDTH}}│{right:<{BAR_WIDTH}}"


def _short(word: str) -> str:
    """Return the word in printable form, a long one without its middle."""
    shown, half = printable(" ".join(word.split())), MAX_WORD_WIDTH // 2
    return shown if len(shown) <= MAX_WORD_WIDTH else f"{shown[: half - 1]}…{shown[-half:]}"


def printable(text: str) -> str:
    """Escape control characters and those that change the direction of text, so that a terminal shows it safely."""
    return "".join(
        letter if letter.isprintable() or letter in "\u200c\u200d\n" else ascii(letter)[1:-1] for letter in text
    )


def columns(text: str) -> int:
    """Return about how many terminal columns a text takes."""
    return sum(
        0
        if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Progress | None]:
    """Yield a progress callback, or None with --json."""
    if args.json:
        yield None
        return
    with ProgressLine(after_s=PROGRESS_AFTER_S) as line:
        # 1.0 would end the line, but finishing one task is not the end of the command.
        yield lambda step, share: line(step, min(share, 0.99))
