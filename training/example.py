"""A small data set to try the training with: support tickets, billing or technical.

    python -m training.example build/tickets.csv

500 rows with the columns text and label, put together from parts by a fixed rule, so that everybody gets the
same file. Both kinds of ticket speak of payments, apps, errors and accounts: what counts is what is asked for,
and some tickets first tell of another matter that is settled. One in thirty is filed under the wrong label, as
happens where people do the filing: nobody should get all of them right.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from pathlib import Path

ROWS = 500
ASKED = {
    "billing": (
        "I was charged {twice} for {month}",
        "please refund the {amount} that left my account",
        "the invoice for {month} shows the wrong address",
        "can I pay by bank transfer instead of by card",
        "why did the price of the {plan} plan go up",
        "I cancelled the {plan} plan and {amount} was still taken",
        "I need a receipt for {month} with our VAT number on it",
        "the discount code was not taken off the total",
        "how do I change the card that the {plan} plan is paid with",
        "your reminder says {amount} is overdue, but it was paid in {month}",
        "move us from monthly to yearly payment",
        "what is the {amount} fee on the statement",
        "we are {seats} people now, what would the {plan} plan cost",
        "the trial ended early and money was taken",
        "I would like my money back for {month}",
        "who do I send the purchase order to",
    ),
    "technical": (
        "the app closes as soon as I open {screen}",
        "I cannot sign in on my {device}",
        "{screen} stays blank in the browser",
        "the export stops at {percent} per cent",
        "error {code} appears whenever I save",
        "notifications no longer reach my {device}",
        "the card form does not accept my typing on the {device}",
        "the link in the password mail leads to error {code}",
        "since the update {screen} takes a minute to load",
        "the download of the invoice ends with error {code}",
        "my {device} and the website show different totals after a sync",
        "the price filter on {screen} has no effect",
        "the API answers {code} to every request",
        "two people cannot edit {screen} at the same time",
        "the payment page freezes on my {device}",
        "pictures come out upside down when I upload them from my {device}",
    ),
}
# Said beside the point, and as often in one kind of ticket as in the other.
ASIDES = (
    "I have paid for the {plan} plan since {month}.",
    "My last invoice was {amount}, in case you need it.",
    "I reinstalled the app, which changed nothing.",
    "The website showed error {code} earlier, that is gone now.",
    "We have {seats} accounts with you.",
    "Our accountant asked me to write.",
    "My {device} is a new one.",
    "Your chat sent me here.",
    "This is the second time I write.",
    "I looked at {screen} and found no answer.",
)
# Some tell of a matter of the other kind that is over.
SETTLED = (
    'Last week I wrote "{other}", which is settled.',
    'Forget my ticket "{other}", that is done.',
    'Someone else here has asked "{other}". I have another question.',
)
MISFILED = 30  # one in so many
OPENINGS = ("", "", "", "Hello,", "Hi there,", "Good morning.", "Hey team,", "To whom it may concern,")
CLOSINGS = ("", "", "", "Thanks!", "Please help.", "Kind regards, {name}", "Waiting for your answer.", "Cheers, {name}")
SLOTS = {
    "twice": ("twice", "two times", "three times", "too much"),
    "month": ("January", "March", "May", "July", "September", "November"),
    "amount": ("12 euros", "$49", "£7.99", "120 dollars", "35 francs", "$300"),
    "plan": ("basic", "team", "family", "business"),
    "seats": ("five", "12", "forty", "200"),
    "screen": ("the dashboard", "the settings", "the calendar", "the invoice list", "my profile", "the report"),
    "device": ("phone", "tablet", "laptop", "iPad", "Android phone", "Mac"),
    "percent": ("10", "47", "90", "99"),
    "code": ("403", "404", "500", "E17", "0x80070"),
    "name": ("Ana", "Bo", "Chidi", "Dana", "Emre", "Fay"),
}


def rows(count: int = ROWS) -> list[tuple[str, str]]:
    """`count` different texts and their labels, both labels equally often; always the same."""
    draw = random.Random(500)
    found: dict[str, str] = {}
    labels = tuple(ASKED)
    while len(found) < count:
        label, other = labels if len(found) % 2 else labels[::-1]
        asked = draw.choice(ASKED[label])
        ask = asked[0].upper() + asked[1:] + ("?" if asked.startswith(("can", "why", "how", "what", "who")) else ".")
        aside = draw.choice(("", "", *draw.sample(ASIDES, 3), draw.choice(SETTLED)))
        aside = aside.replace("{other}", draw.choice(ASKED[other]))
        middle = [ask, aside] if draw.random() < 0.5 else [aside, ask]
        parts = [draw.choice(OPENINGS), *middle, draw.choice(CLOSINGS)]
        slots = {name: draw.choice(values) for name, values in SLOTS.items()}
        text = " ".join(part for part in parts if part).format(**slots)
        found.setdefault(_typed(text, draw), other if draw.random() < 1 / MISFILED else label)
    return list(found.items())


def _typed(text: str, draw: random.Random) -> str:
    """The text as people type it: some all in small letters, some with two letters swapped."""
    if draw.random() < 0.3:
        text = text.lower()
    if draw.random() < 0.3:
        at = draw.randrange(1, len(text) - 2)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def main() -> int:
    p = argparse.ArgumentParser("python -m training.example", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("out", type=Path, metavar="OUT.csv")
    out = p.parse_args().out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows())
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {out}: {ROWS} rows with the columns text and label.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
