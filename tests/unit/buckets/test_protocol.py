"""What docs/protocol.md says of the master's verdicts is what a confirm can answer."""

import re

from buckets.errors import REFUSALS
from tests.support.programs import ROOT
from warehouse_site.problems import status_of


def test_every_refusal_of_a_confirm_is_documented_with_its_status() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = text.partition("**The master's verdicts.**")[2].partition("## 5.")[0]
    rows = re.findall(r"^\| (\d{3}) \| ([^|]*) \|", table, re.MULTILINE)
    documented = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert documented == {(status_of(error), error.code) for error in REFUSALS}
    [of_a_put] = re.findall(r"^\| ([\d, ]+) \| the master's verdict", text, re.MULTILINE)
    assert {int(status) for status in of_a_put.split(", ")} == {status for status, _ in documented}
