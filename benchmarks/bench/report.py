"""What is said of rows: a line, and the table of README.md, which follows from the committed JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.rows import row

BEGIN, END = "<!-- table: written by tools/bench --all -->", "<!-- end of the table -->"


def about(name: str) -> dict[str, Any]:
    """What is known of a row before it is measured."""
    r = row(name)
    return {
        "name": name,
        "what": r.what,
        "peer_name": r.peer_name or None,
        "like_for_like": r.like_for_like,
        "difference": r.difference,
        "unit": r.unit,
        "target": r.target,
        "limits": r.limits,
    }


def line(found: Mapping[str, Any]) -> str:
    return f"{found['name']}: {_ours(found)}" + (
        f", {found['peer_name']} {found['peer']:.3g} {found['unit']}, ratio {found['ratio']:.2f}"
        if found["peer"]
        else ""
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows with date, device and commit."""
    first = rows[0]
    versions = ", ".join(f"{n} {v}" for n, v in first["versions"].items())
    lines = [
        f"{first['date']}, {first['device']}, {first['threads']} threads, commit {first['commit']}; {versions}.",
        "",
        "| row | ours | peer | ratio | like for like | against | turns |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        peer, ratio = ("", "") if r["peer"] is None else (f"{r['peer']:.3g} {r['unit']}", f"{r['ratio']:.2f}")
        alike = "" if r["peer"] is None else "yes" if r["like_for_like"] else "no"
        against = r["peer_name"] or "limits: " + " and ".join(f"{n:g} {unit}" for unit, n in r["limits"].items())
        later = "" if r["commit"] == first["commit"] else f" at commit {r['commit']}"
        lines.append(f"| `{r['name']}`{later} | {_ours(r)} | {peer} | {ratio} | {alike} | {against} | {r['n']} |")
    lines += ["", *(f"- `{r['name']}`: {r['what']}" + f" {r['difference']}" * bool(r["difference"]) for r in rows)]
    return "\n".join(lines)


def _ours(found: Mapping[str, Any]) -> str:
    numbers = {found["unit"]: found["ours"], **found.get("also", {})}
    return " and ".join(f"{n:.3g} {unit}" for unit, n in numbers.items())


def renewed(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The README with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"
