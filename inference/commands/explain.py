"""The command explain: which words of a text speak for its label, and which against it."""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.backends import EVERY, TITLES
from inference.commands.options import add_content, add_model_command, load_model
from inference.errors import InputError
from inference.explain.explanation import METHOD_TITLES, METHODS, OCCLUSION, Explanation
from inference.explain.run import explain
from inference.jobs import ProgressLine

if TYPE_CHECKING:
    from inference.classifier import Classifier

BAR = 14  # characters of the longest bar
WIDEST = 28  # of a word on the terminal
QUIET_S = 1.0  # what is over sooner needs no progress bar


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    p = add_model_command(
        commands, "explain", explain_command, "Which words of a text speak for its label, and which against it."
    )
    p.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads it from stdin")
    p.add_argument("--task", help="every task if left out")
    p.add_argument("--label", help="the label to explain (default: the one that the model gives)")
    p.add_argument(
        "--method",
        choices=METHODS,
        default=OCCLUSION,
        help="leave out one word at a time, on any backend; or gradients, on PyTorch (default: %(default)s)",
    )
    p.add_argument("--backend", choices=EVERY, help="the runtime (default: the model's first, mostly pytorch)")
    p.add_argument(
        "--compare", metavar="BACKENDS", help="explain on each of these, comma-separated, and say how far they agree"
    )
    p.add_argument("--budget", type=float, metavar="SECONDS", help="take no longer (default: as long as it takes)")
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    add_content(p)
    p.add_argument(
        "--check",
        action="store_true",
        help="no TEXT: on the showcase, do the words named first matter more than random ones? Takes minutes",
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="with --check: put the record into this JSON file too")


def explain_command(args: argparse.Namespace) -> None:
    if args.check:
        check(args)
        return
    if args.text is None or args.out:
        raise InputError(
            "--out is for --check. Leave it out."
            if args.out
            else 'explain needs a TEXT: python -m inference explain "what a lovely film"'
        )
    if args.compare and (args.backend or args.budget):
        raise InputError("--compare names the backends itself and gives each all its time: leave out the other option.")
    # Read to its end as one text. What is no UTF-8 shows as such.
    text = sys.stdin.buffer.read().decode("utf-8-sig", errors="replace") if args.text == "-" else args.text
    names = [name.strip() for name in args.compare.split(",")] if args.compare else [args.backend]
    if args.compare and (len(names) < 2 or len(set(names)) < len(names)):
        raise InputError(f"--compare {args.compare}: name two different backends or more, such as onnx,int8.")
    opened = [load_model(args, name) for name in names]
    tasks = [opened[0].one_task(args.task)] if args.task or args.label else list(opened[0].tasks)
    (compare if args.compare else explain_one)(args, opened, text, tasks)


def explain_one(args: argparse.Namespace, opened: Sequence[Classifier], text: str, tasks: Sequence[str]) -> None:
    (classifier,) = opened
    with _progress(args) as show:
        found = [
            explain(classifier, text, task, args.label, args.method, budget_s=args.budget, progress=show)
            for task in tasks
        ]
    if args.json:
        document = {"model": classifier.bundle.name, "explanations": [one.to_dict() for one in found]}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    print("\n\n".join(lines(one) for one in found))


def compare(args: argparse.Namespace, opened: Sequence[Classifier], text: str, tasks: Sequence[str]) -> None:
    from inference.explain.agreement import agreement_sentence, compare_explanations

    by_name = {one.backend.name: one for one in opened}
    with _progress(args) as show:
        found = [compare_explanations(by_name, text, task, args.label, args.method, show) for task in tasks]
    if args.json:
        document = {"model": opened[0].bundle.name, "comparisons": [one.to_dict() for one in found]}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    first = next(iter(by_name))
    told = []
    for one in found:
        agreed = [printable(agreement_sentence(found, first, name)) for name, found in one.agreements.items()]
        told.append("\n".join([*map(lines, one.explanations.values()), *agreed]))
    print("\n\n".join(told))


def check(args: argparse.Namespace) -> None:
    from inference.assets import SHOWCASE, showcase_texts
    from inference.explain import faithfulness
    from inference.formats.files import sha256

    if args.text or args.label or args.compare or args.budget:
        raise InputError(
            "--check takes the texts of the showcase and the labels that the model gives them: leave out TEXT, "
            "--label, --compare and --budget."
        )
    if args.out:  # whether it can be written is told now, and not after minutes
        if not args.out.parent.is_dir() or args.out.is_dir():
            what = "is a folder" if args.out.is_dir() else f"there is no folder {args.out.parent}"
            raise InputError(f"--out {args.out}: {what}. Name a file.")
        faithfulness.read_records(args.out)
    classifier = load_model(args, args.backend)
    tasks = None if args.task is None else [args.task]
    with _progress(args) as show:
        found = faithfulness.measure_faithfulness(classifier, showcase_texts(), args.method, tasks=tasks, progress=show)
    made = faithfulness.make_record(classifier, args.method, found, sha256(SHOWCASE))
    if args.out:
        faithfulness.add_record(args.out, made)
    if args.json:
        print(json.dumps(made, indent=1))
        return
    for task in found:
        print("\n".join([task, *(f"  {sentence}" for sentence in faithfulness.faithfulness_sentences(made, task))]))


def lines(found: Explanation) -> str:
    """An explanation for a terminal: a line a word, its figure, and a bar to the left of the axis or to the right."""
    given = "" if found.label == found.predicted else f" (the model says {found.predicted})"
    head = (
        f"{found.task}: {found.label} {found.score:.4f}{given}, log-odds {found.log_odds:+.3f}; "
        f"{METHOD_TITLES[found.method]} on {TITLES.get(found.backend, found.backend)}, {found.seconds:.2f} s"
    )
    if found.convergence_delta is not None:
        head += (
            f"\nfrom padding at {found.baseline_log_odds:+.3f} in {found.n_steps} steps; the attributions miss the "
            f"difference by {found.convergence_delta:+.4f}"
        )
    most = max((abs(word.attribution or 0.0) for word in found.words), default=0.0)
    width = max((columns(_short(word.text)) for word in found.words), default=0)
    told = [printable(head)]
    for word in found.words:
        shown = _short(word.text)
        figure = (
            " (not tried)" if word.attribution is None else f"{word.attribution:+9.3f}  {_bar(word.attribution, most)}"
        )
        left = "" if word.without is None else f"  without it {word.without:.4f}"
        told.append(f"  {shown}{' ' * (width - columns(shown))}{figure}{left}")
    return "\n".join([*(line.rstrip() for line in told), *(f"note: {note}" for note in found.notes)])


def _bar(value: float, most: float) -> str:
    length = round(abs(value) / most * BAR) if most else 0
    against, speaks_for = ("░" * length, "") if value < 0 else ("", "█" * length)
    return f"{against:>{BAR}}│{speaks_for:<{BAR}}"


def _short(word: str) -> str:
    """The word as it is shown, with the middle of a long one left out."""
    shown = printable(" ".join(word.split()))
    return shown if len(shown) <= WIDEST else f"{shown[: WIDEST // 2 - 1]}…{shown[-WIDEST // 2 :]}"


def printable(text: str) -> str:
    """The text as any terminal can show it: no control character gets there, and none that turns the direction."""
    return "".join(
        letter if letter.isprintable() or letter in "\u200c\u200d\n" else ascii(letter)[1:-1] for letter in text
    )


def columns(text: str) -> int:
    """How many columns of a terminal a text takes, as nearly as can be known."""
    return sum(
        0
        if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Callable[[str, float], None] | None]:
    """What shows how far it is; None where nobody is to see it."""
    if args.json:
        yield None
        return
    with ProgressLine(after_s=QUIET_S) as line:
        # Several texts or tasks come to their end one after the other, and none of them is the end of the command.
        yield lambda step, share: line(step, min(share, 0.99))
