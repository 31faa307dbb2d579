"""How each number of a receipt was measured, in plain words with the receipt's values. For the page and the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from dashboard.charts.formatting import Receipt, many, names, sentence, span
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits, mb, ms, percent, points, times
from inference.compare.benchmark import BATCH_SIZES, MAX_SLOWDOWN, MAX_STEAL
from inference.compare.comparable import huge_pages
from inference.compare.results import PERCENTILES, noise_is_assumed, unmeasured
from inference.compare.stats import RESAMPLES, min_samples
from inference.compare.summary import base_in_words
from inference.compare.verdict import INCONCLUSIVE, ShipLimits, accuracy_decision

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and names with values. All plain text, which may hold anything that a file name can."""

    heading: str
    paragraphs: list[str]
    facts: Facts = field(default_factory=list)


def method(receipt: Receipt, limits: ShipLimits | None = None) -> list[Section]:
    """Return every section in reading order."""
    if (missing := unmeasured(receipt)) is None:
        speed = [_latency(receipt), _noise(receipt), _percentiles(receipt), _throughput(receipt)]
        start = [_start(receipt), _batches(receipt)]
    else:
        speed, start = [Section("Latency", [sentence(missing)])], []
    return [
        _rows(receipt),
        *speed,
        _accuracy(receipt),
        _difference(receipt, limits or ShipLimits()),
        _size(receipt),
        *start,
        _left_out(),
        _machine(receipt),
        _hashes(receipt),
    ]


def _rows(receipt: Receipt) -> Section:
    data, rows = receipt["data"], len(receipt["data"]["row_numbers"])
    paragraphs = [
        f"{names(receipt['settings']['backends'])} answered the same {many(rows, 'row')} of {data['name']}, prepared "
        "by the same code. A runtime only turns token ids into logits, so a difference between two is a difference in "
        "arithmetic and nothing else.",
        f"Texts are cut at {receipt['model']['max_tokens']} tokens, which affected {many(data['truncated'], 'row')}. "
        + ("The measurement contains the texts." if data["texts"] else "The measurement has row numbers, not texts."),
    ]
    if data["notes"]:
        paragraphs.append(f"About the rows: {'; '.join(data['notes'])}.")
    labelled = [(f"rows labelled for {task}", f"{sum(i >= 0 for i in ids):,}") for task, ids in data["labels"].items()]
    facts = [("rows in the file", f"{data['rows_in_file']:,}"), ("rows compared", f"{rows:,}"), *labelled]
    return Section("The rows", paragraphs, facts)


def _latency(receipt: Receipt) -> Section:
    settings, latency = receipt["settings"], receipt["latency"]
    warm = [arm for launch in latency["warm_up"] for arm in launch.values()]
    settled = sum(arm["plateau"] for arm in warm)
    disturbed = len({(block["launch"], block["round"]) for block in latency["blocks"] if block["disturbed"]})
    calls = receipt["results"]["latency"][settings["reference"]]["calls"]
    pinned = "; this system cannot pin a process to cores"
    if latency["cores"]:
        pinned = f", pinned to {many(len(latency['cores']), 'core')}"
    paragraphs = [
        "The time of one call with one text, end to end as a user sees it: checking, tokenising, the forward pass, "
        "reading the result. It is measured inside the answering process, without network or queue.",
        f"Every runtime has its own process with {many(settings['threads'], 'thread')}{pinned}. "
        f"{many(settings['launches'], 'start').capitalize()} of each, in every start {settings['rounds']} "
        f"rounds of {settings['texts']} texts drawn from the rows: {calls:,} calls of each runtime. All runtimes get "
        "the same texts, whose lengths are those of the rows.",
        "The runtimes take turns in ABBA order: A, B, C in one round, C, B, A in the next, and every two rounds "
        "another runtime is first. If the machine slows down, it slows down for all of them.",
        "Before timing, each process answers texts of every length until two passes in a row differ by less than 5%. "
        f"{settled} of {len(warm)} processes got there"
        + (". " if settled == len(warm) else "; the others stopped after 12 passes and may still have become faster. ")
        + "Each turn begins with a pause, so that the previous process comes to rest, and three calls that do not "
        "count, because a process that slept is slow at first.",
        "On a shared machine, everything is slower for some seconds without any counter showing it. A probe, always "
        f"the same multiplication, detects this: while it takes more than {digits(MAX_SLOWDOWN)} times its best, "
        f"nothing starts ({digits(latency['waited_s'])} s here). A round that ended so, or in which the host took more "
        f"than {percent(MAX_STEAL, 0)} of the processor, is discarded and repeated ({many(disturbed, 'round')} here); "
        "the third try always counts. The times are those of an undisturbed machine.",
    ]
    return Section("Latency", paragraphs)


def _noise(receipt: Receipt) -> Section:
    results, reference = receipt["results"], receipt["settings"]["reference"]
    control, base = results["control"], TITLES[reference]
    facts = [
        (f"{TITLES[name]} against {base}", f"{span(gain, times)}, {'beyond' if gain['different'] else 'within'} noise")
        for name, gain in results["speedup"].items()
        if name != reference
    ]
    source = "the outer end of that interval"
    if noise_is_assumed(control):
        source = "an assumption: each process was started once, so the difference between two starts was not measured"
    paragraphs = [
        f"{base} runs twice, in two processes that take turns like any other two. They are identical, so any "
        f"difference between them is noise: the ratio of their medians is {digits(control['value'])}, with 95% "
        f"confidence between {digits(control['low'])} and {digits(control['high'])}.",
        f"A speed-up counts only if its whole interval lies beyond {times(control['noise'])}, {source}. A speed-up is "
        "the ratio of the medians over the same texts.",
    ]
    return Section("Noise: the A/A control", paragraphs, facts)


def _percentiles(receipt: Receipt) -> Section:
    latency, settings = receipt["results"]["latency"], receipt["settings"]
    texts = latency[settings["reference"]]["texts"]
    least = {p: min_samples(p) for p in PERCENTILES}
    left_out = [f"p{p}" for p in PERCENTILES if texts < least[p]]
    facts = [
        (f"{TITLES[name]} {key.removesuffix('_ms')}", span(figures[key], ms))
        for name, figures in latency.items()
        for key in figures
        if key.endswith("_ms")
    ]
    paragraphs = [
        "A percentile is shown only if enough different texts support it: if the true share below it were no more than "
        "its name says, at most one text would lie above it with at most 1% probability. This requires "
        f"{least[90]} texts for p90, {least[95]} for p95 and {least[99]} for p99 (the early-stopping rule of MLPerf "
        f"Inference). {texts:,} were timed here"
        + (f", so {' and '.join(left_out)} would be a guess and is left out." if left_out else ": enough for all."),
        f"The 95% intervals come from a two-stage bootstrap with {RESAMPLES:,} resamples: starts of the process are "
        "drawn first, then rounds within them. Calls in the same second of the same process are alike; drawing them "
        "one by one would treat them as independent and give intervals that are too narrow."
        + (
            " With one start, the variation between starts is not included."
            if settings["launches"] == 1
            else " A few starts say little about future starts, so the intervals are widened by Student's t."
        ),
    ]
    return Section("Percentiles and their intervals", paragraphs, facts)


def _throughput(receipt: Receipt) -> Section:
    sizes = ", ".join(map(str, BATCH_SIZES[:-1]))
    paragraphs = [
        f"{receipt['throughput']['texts']} texts in one call, with at most {sizes} or {BATCH_SIZES[-1]} of them in a "
        "forward pass; shorter texts are padded to the longest of their batch. Predictions per hour are those of the "
        "best batch size, around the clock, on this machine. On ONNX and INT8, several batches run side by side, one "
        "per core, if that keeps all cores busy; in measurements from before 29 November 2026, one ran at a time.",
        "The fixed shapes are single forward passes over texts cut to exactly 16, 32 or 128 tokens; they compare "
        "machines and models regardless of the lengths of these rows."
        if receipt["shapes"]
        else "Fixed shapes were not timed: this was a quick run.",
    ]
    return Section("Throughput", paragraphs)


def _accuracy(receipt: Receipt) -> Section:
    facts = []
    for task, scores in receipt["results"]["accuracy"].items():
        facts.append((f"{task}: uncertain below", f"{receipt['model']['tasks'][task]['threshold']:g}"))
        facts += [
            (
                f"{task}: accuracy of {TITLES[name]}",
                f"{span(of['accuracy'], percent)} of {of['rows']:,} rows, ECE {digits(of['calibration_error'])}",
            )
            for name, of in scores.items()
        ]
    paragraphs = [
        "Accuracy is the share of rows whose most probable label is right, with Wilson's 95% interval. The interval "
        "says how well these rows represent others like them; it does not measure the difference between two runtimes, "
        "which the next section covers.",
        "Macro-F1 is the unweighted mean of the F1 of every label among the right ones, so a rare label counts as much "
        f"as a common one; its interval is a bootstrap of rows ({RESAMPLES:,} resamples), each over the labels drawn.",
        "The expected calibration error (ECE) is the mean distance between confidence and accuracy over 15 bins of "
        "equal width, weighted by their rows. Coverage is the share of rows answered with at least the model's own "
        "confidence threshold.",
    ]
    return Section("Accuracy, macro-F1, calibration", paragraphs, facts)


def _difference(receipt: Receipt, limits: ShipLimits) -> Section:
    facts = []
    for task, pairs in receipt["results"]["paired"].items():
        for name, pair in pairs.items():
            reason = accuracy_decision(receipt, task, name, limits.max_drop)
            settled = reason.remedy or "more such rows will not settle it"
            if reason.decision != INCONCLUSIVE:
                settled = "settled"
            facts.append(
                (
                    f"{task}: {TITLES[name]}",
                    f"{pair['broken']} broken, {pair['fixed']} fixed, {pair['both_wrong']} both wrong of "
                    f"{pair['rows']:,}; accuracy {span(pair['delta_accuracy'], points)}; "
                    f"p = {digits(pair['mcnemar_p'], 2)}; {settled}",
                )
            )
    reference = TITLES[receipt["settings"]["reference"]]
    paragraphs = [
        f"Both answer the same rows, so only rows count on which exactly one is right: broken (only {reference} is "
        "right) and fixed (only the other is right).",
        "McNemar's exact test gives the probability of a split at least so uneven if neither is right more often. A "
        "large p does not prove that two are equal.",
        "The difference in accuracy has Tango's 90% score interval, so each end alone holds with 95% confidence, "
        "nearly so below some 600 rows. If no row differs, the exact bound is used: a bootstrap of rows that all agree "
        "would call the difference exactly zero, however few they are.",
        f"A runtime is within the limit if the lower end of that interval is above {points(-limits.max_drop, 1)} "
        "(non-inferiority). It is beyond the limit if the upper end is below and McNemar's exact test agrees, or if "
        "the whole interval of macro-F1 is below. Otherwise it is not settled. So too few rows can never pass, nor can "
        "rows of a single label, or rows of which more than 5% repeat a text.",
        "Labelled rows that would settle whether accuracy stays within the limit: n = (1.645 + 0.842)² · d / (m + Δ)², "
        "with d the share of rows on which exactly one is right, Δ the measured difference and m the limit. With so "
        "many, there is an 80% chance to show it if the measured values are true.",
    ]
    return Section("The difference in accuracy, and the verdict", paragraphs, facts)


def _size(receipt: Receipt) -> Section:
    memory = receipt["results"].get("memory", {})
    facts = [
        (
            TITLES[name],
            f"model {mb(of['model_bytes'])}, libraries {mb(of['libraries_bytes'])}"
            + (f", peak memory {mb(memory[name]['peak_bytes'])}" if memory else ""),
        )
        for name, of in receipt["results"]["size"].items()
    ]
    on_torch = any(not RUNTIMES[name].file for name in receipt["settings"]["backends"])
    base = "; for PyTorch, the base model and what was trained on it" if on_torch and receipt["model"]["base"] else ""
    paragraphs = [
        f"The model is every file needed for answering: weights, tokenizer, description{base}. 1 MB is 1,000,000 "
        "bytes. Libraries are the runtime and all its requirements, as installed on this disk. A container image can "
        "be smaller or larger.",
    ]
    if memory:
        paragraphs.append(
            "Memory is that of the answering process, Python included, after it answered its texts one by one and in "
            "batches: what it holds then, and its peak. Medians over the starts."
        )
    return Section("Size and memory", paragraphs, facts)


def _start(receipt: Receipt) -> Section:
    facts = []
    for name, start in receipt["results"]["start"].items():
        extremes = f"{digits(start['min_s'])}–{digits(start['max_s'])}, " if start["runs"] > 1 else ""
        steps = ", ".join(
            f"{step} {digits(start[key])} s"
            for step, key in (("import", "import_s"), ("load", "load_s"), ("first answer", "first_answer_s"))
        )
        starts = many(start["runs"], "start")
        facts.append((TITLES[name], f"{digits(start['total_s'])} s ({extremes}{starts}): {steps}"))
    paragraph = (
        "From the start of the process to its first answer: interpreter and imports, loading the model with its hashes "
        "checked, one answer to all tasks. The files had been read before, so they came from memory: reading them from "
        "disk or downloading them takes longer."
    )
    return Section("Cold start", [paragraph], facts)


def _batches(receipt: Receipt) -> Section:
    flips = {name: of["batch_flips"] for name, of in receipt["backends"].items()}
    facts = [
        (TITLES[name], f"{many(sum(of['tasks'].values()), 'label')} of {of['rows']:,} rows")
        for name, of in flips.items()
    ]
    paragraph = (
        "The same rows are answered one by one and in padded batches of mixed lengths. A label that changes depends on "
        "the other texts of its batch, as with a model whose INT8 ranges are computed per batch. The ranges of this "
        "model are fixed when it is built."
    )
    return Section("Alone and in a batch", [paragraph], facts)


def _left_out() -> Section:
    paragraphs = [
        "No GPU. No energy. No open-loop load: calls follow one another without a queue, so p95 under traffic will be "
        "higher. No HTTP: a service adds its own time to every call.",
        "No other processor: INT8 depends on instructions (AVX2, VNNI, AMX, ARM's dot product) that another machine "
        "may lack. Measure there before you decide for it.",
        "Nothing is known about texts unlike these rows.",
    ]
    return Section("What is not measured", paragraphs)


def _machine(receipt: Receipt) -> Section:
    machine, settings = receipt["machine"], receipt["settings"]
    load = [machine[when]["load"] for when in ("before", "after")]
    mhz = [machine[when]["mhz"] for when in ("before", "after")]
    facts = [
        ("measured", receipt["created"].replace("T", " ").replace("Z", " UTC")),
        ("run", "quick" if settings["quick"] else "full"),
        ("processor", f"{machine['cpu']}, {many(machine['cores'], 'core')}, {machine['architecture']}"),
        ("instructions for INT8", ", ".join(machine["flags"]) or "none known"),
        ("memory", mb(machine["memory_bytes"])),
        ("huge pages", huge_pages(receipt)),
        ("system", machine["system"]),
        ("load before and after", " → ".join("unknown" if value is None else f"{value:g}" for value in load)),
        ("clock before and after", " → ".join("unknown" if value is None else f"{value:,} MHz" for value in mhz)),
        ("taken by the host", percent(machine["steal_share"])),
        ("seed", str(settings["seed"])),
        *receipt["versions"].items(),
    ]
    return Section("The machine and the versions", [], facts)


def _hashes(receipt: Receipt) -> Section:
    model, data = receipt["model"], receipt["data"]
    facts = [
        (f"{TITLES[name]}: {file}", entry["sha256"])
        for name, backend in receipt["backends"].items()
        for file, entry in backend["files"].items()
        if entry["kind"] in ("weights", "graph")
    ]
    paragraph = (
        f"The model is {model['name']}, {base_in_words(model)}. The figures are valid only for files with these "
        "SHA-256 hashes. The measurement's own checksum detects damage; it is not a signature."
    )
    facts = [("measurement", receipt["checksum"]), (f"rows: {data['name']}", data["sha256"]), *facts]
    return Section("Hashes", [paragraph], facts)
