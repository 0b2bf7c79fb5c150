"""HTML of a report as Markdown."""

import pytest

from evals.report.markdown import to_markdown


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<h3>Quality</h3><p>Two  words.</p>", "### Quality\n\nTwo words."),
        ("<p>1. none</p><p>- none</p>", "1\\. none\n\n\\- none"),
        ("<p>a_b <b>c</b> &lt;i&gt; https://x.org</p>", "a\\_b **c** &lt;i&gt; https\\://x.org"),
        ('<p class="text">one\n  two</p>', "one<br>two"),
        ("<ul><li>one</li><li><p>two</p><p>three</p></li></ul>", "- one\n- two three"),
        ("<dl><div><dt>Loss</dt><dd>0.3</dd><dd>less</dd></div></dl>", "- Loss: 0.3 · less"),
        (
            '<table><caption>All</caption><thead><tr><th>Cell</th><th class="num">Loss<small>nats</small></th></tr>'
            "</thead><tbody><tr><th>Q4<small></small></th><td>a|b</td></tr></tbody></table>",
            "All\n\n| Cell | Loss (nats) |\n| --- | ---: |\n| Q4 | a\\|b |",
        ),
        (
            "<table><tbody><tr><th>File</th><td>x</td></tr></tbody></table>",
            "|  |  |\n| --- | --- |\n| File | x |",
        ),
        ("<svg><line x1='0'/><text>no</text></svg><nav><p>no</p></nav><p>yes</p>", "yes"),
        (
            '<details class="group"><summary><b>Same</b> 3</summary><p>p</p></details>',
            "#### **Same** 3\n\np",
        ),
        (
            '<div class="answer"><p class="who">Reference</p><p class="text">31 m</p></div>',
            "- Reference: 31 m",
        ),
    ],
)
def test_elements_have_their_markdown(html, markdown):
    assert to_markdown(f"<html><head><title>no</title></head><body>{html}</body></html>") == (
        f"{markdown}\n"
    )
