"""
What came of an audit, as a page for those who decide: one file that runs and loads nothing.
"""

from __future__ import annotations

import re
from html import escape

from resource_tokens import __version__
from resource_tokens.cli.audit_reports import MEANINGS, headline, told_of
from resource_tokens.cli.verdicts import ApiReport, Presented, Report, Result, Verdict

__all__ = ["as_html"]


def as_html(report: Report) -> str:
    """
    The page.
    """
    tone = {0: "good", 1: "bad", 2: "open"}[report.status]
    heads = "".join(f"<th scope=col>{escape(presented.value)}</th>" for presented in Presented)
    rows = "".join(_row(api) for api in report.apis)
    questions = "".join(
        f"<dt>{escape(presented.value)}</dt><dd>{escape(MEANINGS[presented].question)}</dd>"
        for presented in Presented
    )
    worst_first = sorted(
        report.apis, key=lambda api: ("fails", "unclear", "holds").index(api.verdict)
    )
    details = "".join(map(_details, worst_first))
    date = report.at.strftime("%d %B %Y, %H:%M UTC")
    return f"""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; style-src 'unsafe-inline'">
<title>Which APIs check what they are shown?</title>
<style>{_STYLE}</style>
<main>
<header>
<p class=kicker>Audit of APIs, {escape(date)}</p>
<h1 class={tone}>{escape(headline(report))}</h1>
<p>Each API was asked one harmless question several times.
Only somebody with a token that was issued for this very API should get an answer.</p>
</header>
<table>
<thead><tr><th scope=col>API</th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table>
<section>
<h2>What was tried</h2>
<dl>{questions}</dl>
<p>The canary is a name at the authorization server that no API answers to.
So its token must be refused everywhere, and no API was shown the token of another.</p>
</section>
<section>
<h2>What there is to do</h2>
{details}
</section>
<footer>By resource-tokens {escape(__version__)}, from {escape(report.origin)}.</footer>
</main>
</html>
"""


def _row(api: ApiReport) -> str:
    cells = "".join(_cell(api.result_of(presented)) for presented in Presented)
    return f"<tr><th scope=row>{_broken(api.destination)}</th>{cells}</tr>"


def _cell(result: Result) -> str:
    tone, mark, word = _MARKS[result.verdict]
    status = "" if result.answer is None or result.answer.status is None else result.answer.status
    return (
        f'<td class={tone} data-head="{escape(result.presented.value)}">'
        f"<span><b>{mark} {word}</b> <small>{status}</small></span></td>"
    )


def _details(api: ApiReport) -> str:
    told = [r for r in api.results if r.verdict in (Verdict.ACCEPTED, Verdict.UNCLEAR)]
    asked = "" if api.request is None else f" &middot; {api.request.method} "
    asked += "" if api.request is None else _broken(api.request.url)
    items = "".join(
        f"<li class={_MARKS[result.verdict][0]}><b>{escape(MEANINGS[result.presented].question)} "
        f"{_MARKS[result.verdict][2].capitalize()}.</b> {_prose(told_of(result))}</li>"
        for result in told
    )
    nothing = "<p class=good>Nothing: it did what it should.</p>"
    return (
        f"<article><h3>{_broken(api.destination)}</h3>"
        f"<p><small>{_broken(api.resource)}{asked}</small></p>"
        f"{f'<ul>{items}</ul>' if items else nothing}</article>"
    )


def _prose(text: str) -> str:
    """
    A sentence, in which backticks mark what is meant to the letter.
    """
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _broken(text: str) -> str:
    """
    A long name, which may be broken after each slash.
    """
    return escape(text).replace("/", "/<wbr>")


_MARKS = {
    Verdict.LET_IN: ("good", "&#10003;", "let in"),
    Verdict.REFUSED: ("good", "&#10003;", "refused"),
    Verdict.ACCEPTED: ("bad", "&#10007;", "accepted"),
    Verdict.UNCLEAR: ("open", "?", "unclear"),
    Verdict.NOT_TRIED: ("none", "&ndash;", "not tried"),
}

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2330; --soft: #5b6472; --paper: #fff; --line: #dfe3e8;
  --good: #0b6b3a; --good-bg: #e6f4ec; --bad: #a31621; --bad-bg: #fdeaea;
  --open: #7a5200; --open-bg: #fff4d6; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e8ebf0; --soft: #a3acb9; --paper: #14181f; --line: #323a46;
  --good: #7fd6a5; --good-bg: #12301f; --bad: #ff9a9a; --bad-bg: #3d1417;
  --open: #f2cf7a; --open-bg: #352a0c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
.kicker { color: var(--soft); margin: 0; }
h1 { font-size: clamp(1.6rem, 4vw, 2.4rem); line-height: 1.2; margin: .25rem 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
h1.good, p.good { color: var(--good); } h1.bad { color: var(--bad); }
h1.open { color: var(--open); }
table { width: 100%; border-collapse: collapse; margin-top: 1.5rem; }
th, td { text-align: left; padding: .6rem .7rem; border: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; font-size: .9rem; }
tbody th { font-weight: 600; overflow-wrap: anywhere; }
td { white-space: nowrap; }
td small, article small { color: var(--soft); }
td.good, li.good { background: var(--good-bg); } td.good b { color: var(--good); }
td.bad, li.bad { background: var(--bad-bg); } td.bad b, li.bad b { color: var(--bad); }
td.open, li.open { background: var(--open-bg); } td.open b, li.open b { color: var(--open); }
td.none b { color: var(--soft); font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
article p { margin: .15rem 0 .5rem; overflow-wrap: anywhere; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
li { padding: .6rem .8rem; border-radius: .4rem; overflow-wrap: anywhere; }
code { font-family: ui-monospace, Consolas, monospace; font-size: .95em; }
footer { color: var(--soft); font-size: .9rem; margin-top: 2rem; overflow-wrap: anywhere; }
@media (max-width: 62rem) {
  table, tbody, tr, th, td { display: block; }
  thead { display: none; }
  tr { border: 1px solid var(--line); border-radius: .4rem; margin-bottom: 1rem;
    overflow: hidden; }
  th, td { border: 0; border-top: 1px solid var(--line); }
  tbody th { border-top: 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; }
  td::before { content: attr(data-head); color: var(--soft); }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
}
@media print { body { font-size: 11pt; } article, tr { break-inside: avoid; } }
"""
