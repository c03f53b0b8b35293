"""A verdict in sentences, and the audit as Markdown: renders what `verdict` decides, decides nothing."""

import math
from typing import Any

from understudy.memorization.concentration import Concentration
from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.controls import DETECTED, Controls
from understudy.memorization.verdict import REASONS, Findings, Verdict, reason
from understudy.names import percent

MORE_HELD_OUT = "Hold out more patients and audit again."
GALLERY = "look at the pairs in private/gallery.png before release"
NEXT = (
    "What to do: look at the nearest pairs in private/gallery.png, let the data's owner decide, and make the package"
    " with `understudy release`."
)
README = """PRIVATE: not for release.

This folder belongs to an audit and says which training patient lies next to which synthetic slice; its pictures show
training images. Keep it where the training images are kept. The files beside it name no patient, but whoever holds
slices could learn from them whether they were trained on: others get what `understudy release` takes from them.

neighbours.parquet  every synthetic slice with its nearest training slice, patient and scores
heldout.parquet     every held-out slice that p-values were made from, with its patient and scores
exposure.parquet    every training patient with the flagged slices beside them, what chance gives, and the p-value
patients.csv        which patient "patient 1", "patient 2", ... of the audit is
histograms.png      nearest scores of synthetic slices, held-out slices and planted copies
gallery.png         the closest pairs: synthetic, nearest training slice, the same moved onto the synthetic, difference
"""


def verdict(found: Findings) -> Verdict:
    """The verdict: decided by `reason`, in words."""
    why = reason(found)
    kind = REASONS[why]
    sentences = _evidence(found)
    if kind == "copies_found":
        sentences.append(
            "What to do: do not release this set. Look at the nearest pairs in private/gallery.png; take the flagged"
            " slices out with `understudy screen`, or train on more patients, and audit again."
        )
    return Verdict(kind, _headline(why, found), sentences, _limits(found))


def _headline(why: str, found: Findings) -> str:
    flags = found.flags
    flagged = f"{flags.count:,} of {flags.judged:,} synthetic slices ({percent(flags.rate)})"
    nearer = f"{flagged} are nearer to a training slice than {percent(found.quantile)} of new patients' slices"
    chance = f"chance alone would give {percent(flags.expected)}."
    certain = f"{count(flags.certain, 'synthetic slice')} {are(flags.certain)} nearer to a training slice than chance"
    match why:
        case "too_few_slices":
            few = f"{count(found.slices, 'held-out slice')} {are(found.slices)} too few"
            return f"Cannot tell: {few}: it takes at least {found.needed} to flag any slice. {MORE_HELD_OUT}"
        case "too_few_patients":
            few = f"{count(found.patients, 'held-out patient')} {are(found.patients)} too few"
            return f"Cannot tell: {few}: it takes at least {FEWEST_PATIENTS}. {MORE_HELD_OUT}"
        case "new_patients_certain":
            alarms = found.controls.false_alarms.certain
            return (
                f"Cannot tell: {certain} explains, but so {are(alarms)} {count(alarms, 'slice')} of new patients. Look"
                " for one patient under two names among the training and held-out patients, then audit again."
            )
        case "certain":
            return f"Copies found: {certain} explains; {nearer}."
        case "false_alarms_unknown":
            return (
                f"Cannot tell: {found.slices} held-out slices are too few to measure how often new patients' slices are"
                f" flagged by mistake: without any one patient at least {found.needed} must be left. {MORE_HELD_OUT}"
            )
        case "rate":
            return f"Copies found: {nearer}; {chance}"
        case "copies_missed":
            return (
                "Cannot tell: of the copies planted to test this search it found too few:"
                f" {missed_copies(found.controls)}. So it cannot rule out copying. Audit again with slices of a higher"
                " resolution, or hold out more patients."
            )
        case "rate_unclear":
            return (
                f"Cannot tell: {nearer}, more than the {percent(flags.expected)} expected by chance, but the"
                f" {found.patients} held-out patients differ too much from each other to call it copying."
                f" {MORE_HELD_OUT}"
            )
        case "mostly_empty":
            return (
                f"Cannot tell: {flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices are constant or"
                " nearly empty, too many to judge the set by the others. Look at the slices, and train the generator"
                " longer."
            )
        case "concentrated":
            whom = people(found.concentration.patients if found.concentration else 0)
            return (
                f"Cannot tell, look first: {nearer}, no more than chance gives, but they are concentrated on {whom} of"
                f" {found.training}: {GALLERY}."
            )
        case "screened":
            return (
                f"No copy that this audit can find is left among {count(flags.judged, 'screened slice')}. This says"
                " nothing about the generator: see the audit before screening."
            )
    return f"No sign of copying{_blind(found.controls)}: {nearer}; {chance}"


def _blind(controls: Controls) -> str:
    """What the audit would not see, for the first sentence."""
    kinds = [f"{d.name} ({percent(d.rate)} found)" for d in controls.blind]
    kinds += [controls.unsearched] * bool(controls.unsearched)
    return f", but this audit can miss copies of these kinds: {'; '.join(kinds)}" if kinds else ""


def _evidence(found: Findings) -> list[str]:
    """The numbers behind the headline, in sentences."""
    flags, enough = found.flags, found.slices >= found.needed
    reach = "reach" if flags.strict > 1 else "reaches"
    sentences = [
        f"For comparison {count(found.slices, 'slice')} of {count(found.patients, 'patient')} whom the generator never"
        " saw (new patients, held out) were searched for in the same training slices. The smallest p-value that a slice"
        f" can have is {1 / (found.slices + 1):.2g}; counted by patient it is {flags.strict_p:.2g}, which"
        f" {count(flags.strict, 'synthetic slice')} {reach}."
    ]
    if enough:
        low, high = (points(x).split()[0] for x in (flags.excess_low, flags.excess_high))
        below = "fewer than" if flags.excess_high < 0 else "no clear difference from"
        direction = "more than" if flags.excess_low > 0 else below
        sentences.append(
            f"{percent(flags.rate)} of the slices are too near to a training slice (flagged), {direction} the"
            f" {percent(flags.expected)} expected by chance: the difference is {points(flags.excess)} (95 % interval"
            f" {low} to {high}; above 0 means more than chance)."
        )
    if flags.skipped:
        sentences.append(
            f"{flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices have too little contrast to be"
            f" judged like the others: {flags.skipped - flags.faint:,} of one grey value, {flags.faint:,} nearly empty."
        )
    if flags.faint:
        sentences[-1] += (
            " The nearly empty ones were compared with the training slices of full contrast, since they might be"
            f" dimmed copies: {flags.faint_count:,} of them {are(flags.faint_count)} too near."
        )
    if not enough:
        return [*sentences, "With so few held-out slices none could be flagged, whatever the synthetic slices show."]
    sentences += _flagged(found)
    if flags.wilson_high < flags.expected and not found.screened:
        sentences.append(
            "That is fewer than chance gives: these slices are less like the training slices than new patients'"
            " slices are, as those of a generator that has not learned enough would be. Audit again after a longer"
            " training."
        )
    return [*sentences, _controls(found.controls)]


def _flagged(found: Findings) -> list[str]:
    """Whom the flagged slices are beside, or what it means that there are none."""
    flags = found.flags
    if flags.count:
        name, most = next(iter(found.hits.items()), ("", 0))
        beside = (
            f"The flagged slices are nearest to slices of {len(found.hits)} of"
            f" {count(found.training, 'training patient')}; {name} has the most, {most:,} of them."
        )
        return [beside, *([spread(found.concentration)] if found.concentration else [])]
    if found.screened:
        return [
            "No slice is flagged, because the flagged ones were taken out by the same rule. New samples of the same"
            " generator would contain such slices again, so screen them as well."
        ]
    return [
        "No slice is flagged. That does not prove that there are none: of further slices of this kind up to"
        f" {percent(flags.bound)} could be too near (95 % bound from {count(flags.judged, 'slice')})."
    ]


def _controls(controls: Controls) -> str:
    alarms = controls.false_alarms
    least = min((d for d in controls.detections if d.must), key=lambda d: d.rate)
    found = "all" if least.rate == 1 else f"at least {percent(least.rate)} (fewest: {least.name})"
    mistakes = "how often it flags slices of new patients by mistake could not be measured"
    if not math.isnan(alarms.rate):
        mistakes = (
            f"it flagged {percent(alarms.rate)} of new patients' slices by mistake (95 % interval"
            f" {percent(alarms.low)} to {percent(alarms.high)}), where {percent(alarms.nominal)} is expected"
        )
    return (
        "Test of the search: copies of training slices were planted (exact, with noise up to 5 %, with changed"
        f" contrast), and of each kind it found {found}; {mistakes}."
    )


def _limits(found: Findings) -> list[str]:
    """What no audit can say, and which planted copies this one does not find."""
    missed = found.controls.blind if found.slices >= found.needed else []
    listed = "; ".join(f"{d.name}: {percent(d.rate)}" for d in missed)
    unsearched = found.controls.unsearched
    return [
        *([f"Of some kinds of planted copies it finds only a part: {listed}."] if missed else []),
        *([f"Not searched for: {unsearched}."] if unsearched else []),
        "It compares images: what a slice tells of a patient without looking like their images is not found.",
        "It judges these slices, not the generator: other samples, or the weights themselves, can give away more.",
        "Slices are judged one by one; what can be learned from many of them together is not examined.",
        "Whether a remaining risk is acceptable is a legal question and not answered here.",
    ]


def missed_copies(controls: Controls) -> str:
    """Kinds of planted copies that must be found and are not, each with the share found."""
    kinds = {"exact": "exact copies", "noise": "noisy copies", "gamma": "copies with changed contrast"}
    return "; ".join(
        f"{percent(d.rate)} of the {kinds.get(d.name.split()[0], 'copies')}{f' ({d.name})' * (' ' in d.name)},"
        f" {percent(DETECTED)} needed"
        for d in controls.missed
    )


def spread(found: Concentration) -> str:
    """What the test of concentration found, and what it means."""
    whom = people(found.patients)
    p = "below 0.0001" if found.p < 1e-4 else f"= {found.p:.2g}"
    counts = (
        f"{found.hit:,} of {found.flagged:,} flagged slices are nearest to {whom}, and so are the nearest slices of"
        f" {found.same} of the {found.votes} held-out patients who come nearest ({percent(found.share_of_all)} of all"
        " judged slices are)"
    )
    if found.found:
        return (
            f"Concentrated on {whom}: {counts}; p {p} by patient. These may be copies of {whom}, or slices of a"
            f" generator that collapsed: {GALLERY}."
        )
    if not found.testable:
        few = f"{count(found.flagged, 'flagged slice')} and {count(found.votes, 'held-out patient')}"
        return (
            f"Too few to tell whether they are concentrated on few patients: with {few} p is {found.smallest_p:.2g} or"
            " more."
        )
    return f"No more concentrated on few patients than new patients' slices are: {counts}; p = {found.p:.2g}."


def readers(numbers: dict[str, Any]) -> list[str]:
    """What the audit says to a recipient of the images and to one of the weights; `numbers`: of audit.json."""
    asked = numbers.get("membership")
    weights = asked["words"] if asked else "they were not examined; of single patients the images say nothing here."
    images = _exposed(numbers.get("exposed"))
    return [f"For a recipient of the images: {images}", f"For a recipient of the weights: {_inner(weights)}"]


def _exposed(found: dict[str, Any] | None) -> str:
    if found is None:
        return "who of the training patients is exposed cannot be told with so few held-out patients."
    worst, beside = found["worst"], "more flagged slices beside them than new patients' slices explain"
    hit = (
        f"the worst hit one has {worst['flagged']:,}, where chance gives {worst['expected']:.1f} (p = {worst['p']:.2g})"
        f", and at most {worst['at_most']:,} in as many further slices (95 % bound)"
    )
    if found["count"]:
        have = "has" if found["count"] == 1 else "have"
        return (
            f"{found['count']} of {count(found['of'], 'training patient')} {have} {beside} (false discovery rate"
            f" {percent(found['level'])}); {hit}."
        )
    weak = "" if found["testable"] else ", and with so few flagged slices and held-out patients no single one could"
    return f"no training patient has {beside}{weak} (smallest possible p {found['smallest_p']:.2g}); {hit}."


def _inner(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def people(number: int) -> str:
    return "one training patient" if number == 1 else f"{number} training patients"


def count(number: int, one: str) -> str:
    """E.g. "no slice", "1 slice", "1,054 slices"."""
    return f"{f'{number:,}' if number else 'no'} {one if number < 2 else one + 's'}"


def are(number: int) -> str:
    return "is" if number == 1 else "are"


def points(share: float) -> str:
    """E.g. "+3.2 percentage points"; a dash for what is not there."""
    return "–" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:+.1f} percentage points"  # + 0.0: no "-0.0"


def as_markdown(numbers: dict[str, Any]) -> str:
    """The content of audit.json as a page: verdict, controls, limits."""
    decided, null, detection = numbers["verdict"], numbers["null"], numbers["controls"]["detection"]
    too_few = " With too few held-out slices to flag any, every share is 0 %."
    rows = [
        f"| {d['name']} | {100 * d['rate']:.0f} % | {100 * d['low']:.0f} to {100 * d['high']:.0f} % |\n"
        for d in detection
    ]
    parts = [
        f"# {decided['headline']}\n\n",
        *(f"{sentence}\n\n" for sentence in decided["sentences"]),
        *(f"{sentence}\n\n" for sentence in readers(numbers)),
        f"{NEXT}\n\n" if decided["kind"] == "no_sign" else "",
        "## How many copies this audit finds\n\n",
        f"{detection[0]['copies']:,} training slices were changed as named and searched for.",
        too_few * (null["slices"] < null["slices_needed"]),
        "\n\n| planted copy | found | 95 % interval by patient |\n| --- | --- | --- |\n",
        *rows,
        "\n## What this audit cannot say\n\n",
        *(f"- {limit}\n" for limit in decided["limits"]),
        f"\nUnderstudy {numbers['software_version']}, rule: {numbers['rule']['text']}\n",
    ]
    return "".join(parts)
