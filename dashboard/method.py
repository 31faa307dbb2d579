"""How each number of a receipt came about, in plain words with its own values. For the page and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dashboard.charts.formatting import digits, many, mb, ms, names, percent, points, times
from inference.backends import RUNTIMES, TITLES
from inference.compare.benchmark import BATCH_SIZES, MAX_SLOWDOWN, MAX_STEAL
from inference.compare.results import PERCENTILES, noise_is_assumed
from inference.compare.stats import RESAMPLES, min_samples, rows_to_settle
from inference.compare.summary import base_in_words
from inference.compare.verdict import INCONCLUSIVE, ShipLimits, accuracy_decision

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and names with values. All of it plain text: it may hold what a file name can."""

    heading: str
    paragraphs: list[str]
    facts: Facts = field(default_factory=list)


def method(receipt: Mapping[str, Any], limits: ShipLimits | None = None) -> list[Section]:
    """Every section, in the order to read them."""
    limits = limits or ShipLimits()
    told: list[Callable[[Mapping[str, Any]], Section]] = [_rows, _latency, _noise, _percentiles, _throughput, _accuracy]
    return [
        *(section(receipt) for section in told),
        _difference(receipt, limits),
        *(section(receipt) for section in (_size, _start, _batches, _left_out, _machine, _hashes)),
    ]


def _rows(receipt: Mapping[str, Any]) -> Section:
    data, settings = receipt["data"], receipt["settings"]
    rows, texts = len(data["row_numbers"]), data["texts"] is not None
    paragraphs = [
        f"{many(rows, 'row').capitalize()} of {data['name']} were answered by {names(settings['backends'])}: the same "
        "rows, prepared by the same code. A backend only turns token ids into logits, so a difference between two is a "
        "difference in arithmetic and nothing else.",
        f"A text is cut at {receipt['model']['max_tokens']} tokens, which happened to "
        f"{many(data['truncated'], 'row')}. "
        + ("The texts are in the receipt." if texts else "The receipt holds row numbers and no texts."),
    ]
    if data["notes"]:
        paragraphs.append("Of the rows: " + "; ".join(data["notes"]) + ".")
    labelled = [(f"rows labelled for {task}", f"{sum(i >= 0 for i in ids):,}") for task, ids in data["labels"].items()]
    return Section(
        "The rows",
        paragraphs,
        [("rows in the file", f"{data['rows_in_file']:,}"), ("rows compared", f"{rows:,}"), *labelled],
    )


def _latency(receipt: Mapping[str, Any]) -> Section:
    settings, latency = receipt["settings"], receipt["latency"]
    warm = [one for launch in latency["warm_up"] for one in launch.values()]
    settled = sum(one["plateau"] for one in warm)
    disturbed = len({(b["launch"], b["round"]) for b in latency["blocks"] if b["disturbed"]})
    cores = latency["cores"]
    first = receipt["results"]["latency"][settings["reference"]]["calls"]
    held = (
        f", each kept on {many(len(cores), 'core')}" if cores else "; this system cannot keep a process on chosen cores"
    )
    return Section(
        "Latency",
        [
            "The time of one call with one text, end to end as a user has it: checking, tokenising, the forward pass, "
            "reading the result. The clock is that of the process that answers; no network and no queue are in it.",
            f"Every backend has a process of its own with {many(settings['threads'], 'thread')}{held}. "
            f"{many(settings['launches'], 'start').capitalize()} of each, in every start {settings['rounds']} "
            f"rounds of {settings['texts']} texts drawn from the rows: {first:,} calls of each backend. The texts "
            "are the same for all, and as long as the rows are.",
            "The backends take turns in ABBA order: in one round A, B, C, in the next C, B, A, and another one begins "
            "every two rounds. A machine that slows down does so for all of them.",
            f"Before anything is timed, each process answers texts of every length until two passes in a row differ by "
            f"less than 5 %. {settled} of {len(warm)} processes got there"
            + (". " if settled == len(warm) else "; the others stopped after 12 passes and may still have sped up. ")
            + "Each turn begins with a pause, in which the last one comes to rest, and three calls that do not count, "
            "because a process that slept is slow at first.",
            "On a shared machine there are seconds in which everything is slower and no counter tells. A probe, one "
            f"multiplication always, does: while it takes more than {digits(MAX_SLOWDOWN)} times its best, nothing "
            f"begins, {digits(latency['waited_s'])} s here. A round that ended so, or in which the host took more than "
            f"{percent(MAX_STEAL, 0)} of the processor, is set aside and done again, {many(disturbed, 'round')} "
            f"here; the third try counts however it went. The times are those of a machine that is left alone.",
        ],
    )


def _noise(receipt: Mapping[str, Any]) -> Section:
    control, reference = receipt["results"]["control"], TITLES[receipt["settings"]["reference"]]
    gains = receipt["results"]["speedup"]
    assumed = noise_is_assumed(control)
    facts = [
        (
            f"{TITLES[name]} against {reference}",
            f"{times(gain['value'])} ({digits(gain['low'])}–{digits(gain['high'])}), "
            + ("beyond noise" if gain["different"] else "within noise"),
        )
        for name, gain in gains.items()
        if name != receipt["settings"]["reference"]
    ]
    return Section(
        "Noise: the A/A control",
        [
            f"{reference} runs twice, in two processes that take turns like any other two. They are the same, so what "
            f"differs between them is noise: their medians have the ratio {digits(control['value'])}, with 95 % "
            f"certainty between {digits(control['low'])} and {digits(control['high'])}.",
            f"A speed-up counts only where its whole interval lies beyond {times(control['noise'])}, "
            + (
                "which is assumed: each was started once, and what two starts differ by was not seen. "
                if assumed
                else "the outer end of that one. "
            )
            + "A speed-up is the ratio of the medians over the same texts.",
        ],
        facts,
    )


def _percentiles(receipt: Mapping[str, Any]) -> Section:
    latency, reference = receipt["results"]["latency"], receipt["settings"]["reference"]
    texts = latency[reference]["texts"]
    least = {p: min_samples(p) for p in PERCENTILES}
    left_out = [f"p{p}" for p in PERCENTILES if texts < least[p]]
    facts = [
        (
            f"{TITLES[name]} {key.removesuffix('_ms')}",
            f"{ms(one['value'])} ({digits(one['low'])}–{digits(one['high'])})",
        )
        for name, figures in latency.items()
        for key, one in figures.items()
        if key.endswith("_ms")
    ]
    return Section(
        "Percentiles and their intervals",
        [
            "A percentile is shown only where enough different texts carry it: were the true share below it no more "
            "than its name says, one text at most would lie above it with at most 1 % probability. That wants "
            f"{least[90]} texts for p90, {least[95]} for p95 and {least[99]} for p99 (the early-stopping rule of "
            f"MLPerf Inference). {texts:,} were timed here"
            + (f", so {' and '.join(left_out)} would be a guess and is left out." if left_out else ": enough for all."),
            f"The intervals are of 95 %, from a two-stage bootstrap with {RESAMPLES:,} resamples: first starts of the "
            "process are drawn, then rounds within them. Calls of the same second in the same process are alike; "
            "drawing them one by one would take them for independent and give intervals that are too narrow."
            + (
                " With one start, the luck of a start is in none of them."
                if receipt["settings"]["launches"] == 1
                else " As few starts say little about starts to come, they are widened by Student's t."
            ),
        ],
        facts,
    )


def _throughput(receipt: Mapping[str, Any]) -> Section:
    sizes = ", ".join(map(str, BATCH_SIZES[:-1]))
    return Section(
        "Throughput",
        [
            f"{receipt['throughput']['texts']} texts in one call, with at most {sizes} or {BATCH_SIZES[-1]} of them in "
            "a forward pass, shorter texts padded to the longest beside them. Predictions per hour are those of the "
            "best batch size, around the clock, on this machine.",
            (
                "The fixed shapes are forward passes alone over texts cut to exactly 16, 32 or 128 tokens; they tell "
                "machines and models apart without the lengths of these rows."
                if receipt["shapes"]
                else "Fixed shapes were not timed: this was a quick run."
            ),
        ],
    )


def _accuracy(receipt: Mapping[str, Any]) -> Section:
    facts = []
    for task, scores in receipt["results"]["accuracy"].items():
        threshold = receipt["model"]["tasks"][task]["threshold"]
        facts.append((f"{task}: uncertain below", f"{threshold:g}"))
        for name, one in scores.items():
            right = one["accuracy"]
            facts.append(
                (
                    f"{task}: accuracy of {TITLES[name]}",
                    f"{percent(right['value'])} ({percent(right['low'])} to {percent(right['high'])}) "
                    f"of {one['rows']:,} rows, ECE {digits(one['calibration_error'])}",
                )
            )
    return Section(
        "Accuracy, macro-F1, calibration",
        [
            "Accuracy is the share of rows whose most probable label is the right one. Its interval is Wilson's, of "
            "95 %. It says how well these rows stand for others like them; it is no measure of the difference between "
            "two backends, which the next section has.",
            "Macro-F1 is the plain mean of the F1 of every label that occurs among the right ones, so a rare label "
            f"counts as much as a common one; its interval is a bootstrap of rows ({RESAMPLES:,} resamples), each over "
            "the labels that were drawn.",
            "The calibration error (ECE) is the mean distance between confidence and accuracy over 15 bins of equal "
            "width, weighted by their rows. Coverage is the share of rows answered with at least the model's own "
            "threshold of confidence.",
        ],
        facts,
    )


def _difference(receipt: Mapping[str, Any], limits: ShipLimits) -> Section:
    facts = []
    for task, pairs in receipt["results"]["paired"].items():
        for name, pair in pairs.items():
            change = pair["delta_accuracy"]
            wanted = rows_to_settle(pair["broken"], pair["fixed"], pair["rows"], limits.max_drop)
            settled = accuracy_decision(receipt, task, name, limits.max_drop).decision != INCONCLUSIVE
            facts.append(
                (
                    f"{task}: {TITLES[name]}",
                    f"{pair['broken']} broken, {pair['fixed']} fixed, {pair['both_wrong']} both wrong of "
                    f"{pair['rows']:,}; accuracy {points(change['value'])} ({points(change['low'])} to "
                    f"{points(change['high'])}); p = {digits(pair['mcnemar_p'], 2)}; "
                    + (
                        "settled" if settled else f"about {wanted:,} rows to settle it" if wanted else "no end in sight"
                    ),
                )
            )
    reference = TITLES[receipt["settings"]["reference"]]
    return Section(
        "The difference in accuracy, and the verdict",
        [
            f"Both answer the same rows, so only those count on which one is right and the other is not: broken "
            f"({reference} alone is right) and fixed (the other alone is right).",
            "McNemar's exact test asks how likely so uneven a split of them is if neither is right more often. A large "
            "p is no proof that two are equal.",
            "The difference in accuracy has Tango's score interval, of 90 %, so that each end alone holds with 95 % "
            "certainty, or nearly so below some 600 rows. Where no row differs the exact bound is taken: a bootstrap "
            "of rows that all agree would call the difference exactly nothing, however few they are.",
            f"A backend keeps the limit where the lower end of that interval lies above {points(-limits.max_drop, 1)} "
            "(non-inferiority). It breaks it where the upper end lies below and McNemar's exact test agrees; a fall of "
            "macro-F1 whose whole interval lies below counts as well. In between it is not settled. Too few rows can "
            "therefore never pass, nor can rows of one label only, or of which more than 5 % repeat a text.",
            "The rows that would settle it: n = (1.645 + 0.842)² · d / (m + Δ)², with d the share of rows on which "
            "exactly one is right, Δ the difference as found and m the limit. It gives an 80 % chance to show it, if "
            "things are as they look now.",
        ],
        facts,
    )


def _size(receipt: Mapping[str, Any]) -> Section:
    figures = receipt["results"]
    facts = [
        (
            TITLES[name],
            f"model {mb(one['model_bytes'])}, libraries {mb(one['libraries_bytes'])}, peak memory "
            f"{mb(figures['memory'][name]['peak_bytes'])}",
        )
        for name, one in figures["size"].items()
    ]
    on_torch = any(RUNTIMES[name].file is None for name in receipt["settings"]["backends"])
    more = "; for PyTorch the base model and what was trained on it" if on_torch and receipt["model"]["base"] else ""
    return Section(
        "Size and memory",
        [
            f"The model is every file that answering needs: weights, tokenizer, description{more}. 1 MB is 1,000,000 "
            "bytes. Libraries are what is installed for it: the runtime and all that it requires, as they lie on this "
            "disk. An image of a container can be smaller or larger.",
            "Memory is that of the answering process, Python included, after its texts were answered one by one and in "
            "batches: what it holds then, and the most it held. Medians over the starts.",
        ],
        facts,
    )


def _start(receipt: Mapping[str, Any]) -> Section:
    facts = [
        (
            TITLES[name],
            f"{digits(one['total_s'])} s ("
            + (f"{digits(one['min_s'])}–{digits(one['max_s'])}, " if one["runs"] > 1 else "")
            + f"{many(one['runs'], 'start')}): import {digits(one['import_s'])} s, load {digits(one['load_s'])} s, "
            f"first answer {digits(one['first_answer_s'])} s",
        )
        for name, one in receipt["results"]["start"].items()
    ]
    return Section(
        "Cold start",
        [
            "From the moment the process is started to its first answer: interpreter and imports, loading the model "
            "with its hashes checked, one answer to all tasks. The files had been read before, so they came from "
            "memory: a machine that reads them from disk or fetches them takes longer.",
        ],
        facts,
    )


def _batches(receipt: Mapping[str, Any]) -> Section:
    facts = [
        (
            TITLES[name],
            f"{many(sum(one['batch_flips']['tasks'].values()), 'label')} of {one['batch_flips']['rows']:,} rows",
        )
        for name, one in receipt["backends"].items()
    ]
    return Section(
        "Alone and in a batch",
        [
            "The same rows are answered one by one and in padded batches of mixed lengths. A label that differs "
            "depends on the texts that happened to be beside it, as those of a model whose INT8 ranges are taken from "
            "the batch do. The ranges of this one are fixed when it is built.",
        ],
        facts,
    )


def _left_out(receipt: Mapping[str, Any]) -> Section:
    return Section(
        "What is not measured",
        [
            "No GPU. No energy. No open-loop load: calls come one after the other, so there is no queue, and p95 under "
            "traffic will be higher. No HTTP: a service adds its own time to every call.",
            "No other processor: INT8 lives from instructions (AVX2, VNNI, AMX, ARM's dot product) that another "
            "machine may lack. Measure there before you decide for it.",
            "Nothing is said of texts unlike these rows.",
        ],
    )


def _machine(receipt: Mapping[str, Any]) -> Section:
    machine, settings = receipt["machine"], receipt["settings"]
    load = [machine[when]["load"] for when in ("before", "after")]
    mhz = [machine[when]["mhz"] for when in ("before", "after")]
    return Section(
        "The machine and the versions",
        [],
        [
            ("measured", receipt["created"].replace("T", " ").replace("Z", " UTC")),
            ("run", "quick" if settings["quick"] else "full"),
            ("processor", f"{machine['cpu']}, {many(machine['cores'], 'core')}, {machine['architecture']}"),
            ("instructions for INT8", ", ".join(machine["flags"]) or "none known"),
            ("memory", mb(machine["memory_bytes"])),
            ("system", machine["system"]),
            ("load before and after", " → ".join("unknown" if one is None else f"{one:g}" for one in load)),
            ("clock before and after", " → ".join("unknown" if one is None else f"{one:,} MHz" for one in mhz)),
            ("taken by the host", percent(machine["steal_share"])),
            ("seed", str(settings["seed"])),
            *receipt["versions"].items(),
        ],
    )


def _hashes(receipt: Mapping[str, Any]) -> Section:
    model, data = receipt["model"], receipt["data"]
    facts = [
        (f"{TITLES[name]}: {file}", entry["sha256"])
        for name, backend in receipt["backends"].items()
        for file, entry in backend["files"].items()
        if entry["kind"] in ("weights", "graph")
    ]
    return Section(
        "Hashes",
        [
            f"The model is {model['name']}, {base_in_words(model)}. The figures hold for files with these SHA-256 and "
            "no others. The receipt's own checksum finds damage; it is no signature."
        ],
        [("receipt", receipt["checksum"]), (f"rows: {data['name']}", data["sha256"]), *facts],
    )
