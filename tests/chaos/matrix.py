"""What is printed: a line for each cell, a table of victims, ways and moments, and the bound of the loss rate. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tests.chaos.cells import HOWS, MOMENTS, VICTIMS
from tests.chaos.running import Outcome


def line(outcome: Outcome) -> str:
    """One cell.

    gap: the longest silence that a client saw; replayed: known tokens that were computed again, as the node tells.
    """
    replayed = "-" if outcome.replayed is None else outcome.replayed
    state = (
        "LOST"
        if outcome.lost
        else "MISSED"
        if outcome.missed and not outcome.trouble
        else "TROUBLE"
        if outcome.trouble
        else "ok"
    )
    shown = f"{outcome.cell} gap {outcome.gap_ms:.0f} ms, replayed {replayed}, at token {outcome.at_token}"
    ties = f", {outcome.ties} near ties" if outcome.ties else ""
    faults = "".join(f"\n  {fault[:500]}" for fault in (*outcome.lost, *outcome.trouble))
    return f"{state} {shown}{ties}, {outcome.kills} kills, {outcome.seconds:.1f} s{faults}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Median gap (and the longest) of each victim, way and moment; then what all of it shows."""
    rows: list[tuple[str, ...]] = [("gap in ms: median/longest", *MOMENTS)]
    for victim in VICTIMS:
        for how in HOWS:
            found = [one for one in outcomes if (one.cell.victim, one.cell.how) == (victim, how) and one.kills]
            if found:
                rows.append((f"{victim} {how}", *(_gaps(found, moment) for moment in MOMENTS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join((*lines, *summary(outcomes)))


def _gaps(outcomes: Sequence[Outcome], moment: str) -> str:
    gaps = [one.gap_ms for one in outcomes if one.cell.moment == moment]
    return f"{statistics.median(gaps):.0f}/{max(gaps):.0f}" if gaps else "-"


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Kills, streams, losses and the largest loss rate that they leave open."""
    kills = sum(one.kills for one in outcomes)
    lost = [one for one in outcomes if one.lost]
    streams = sum(one.cell.streams for one in outcomes if one.kills)
    equal, ties = (sum(getattr(one, name) for one in outcomes if one.kills) for name in ("equal", "ties"))
    replayed = [one.replayed for one in outcomes if one.replayed is not None]
    told = f"{sum(replayed)} tokens replayed in {len(replayed)} cells" if replayed else "no recovery told of its tokens"
    lost_streams = sum(len(one.lost) for one in outcomes)
    lines = [
        f"{kills} kills in {len(outcomes)} cells under {streams} streams: {equal} byte-identical to the undisturbed "
        f"run, {ties} parted at a near tie (plain or mixed rings), {lost_streams} lost; {told}",
    ]
    if kills:
        most = 100 * bound(len(lost), kills)
        lines.append(f"loss rate per kill: {len(lost)} of {kills}; with 95 % confidence below {most:.2f} %")
    missed = [one for one in outcomes if one.missed]
    trouble = [one for one in outcomes if one.trouble]
    if missed:
        lines.append(f"{len(missed)} cells came too late (their answers had ended) and are not counted as kills")
    lines += [f"lost: {one.cell}" for one in lost]
    lines += [f"trouble: {one.cell}: {one.trouble[0][:200]}" for one in trouble]
    return lines


def bound(losses: int, kills: int) -> float:
    """Upper 95 % bound of a rate, by Poisson: 3 / n for none.

    >>> round(bound(0, 500), 4), round(bound(1, 500), 4)
    (0.006, 0.0095)
    """
    low, high = 0.0, float(kills + 20)
    for _ in range(100):
        mean = (low + high) / 2
        term = total = math.exp(-mean)
        for number in range(1, losses + 1):
            term *= mean / number
            total += term
        low, high = (mean, high) if total > 0.05 else (low, mean)
    return min(1.0, low / kills)
