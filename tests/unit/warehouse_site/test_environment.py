import pytest

from warehouse_site.environment import Environment, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("1024", 1024), ("80MiB", 80 << 20), ("16 GiB", 16 << 30), ("1kib", 1024), ("7B", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1MB", "-1", "1.5GiB", "٣", "1 2", "MiB1", "1MiBMiB"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_size(text)


def test_values_are_read_and_remembered() -> None:
    env = Environment({"N": "5", "S": "2KiB", "C": "b", "F": "1", "U": "https://x/", "L": "a, b,,c", "T": "t"})
    assert env.number("N", "1", "how many", least=1, most=9) == 5
    assert env.size("S", "1", "how large", least=1, most=9999) == 2048
    assert env.choice("C", "a", "which", of=("a", "b")) == "b"
    assert env.flag("F", "0", "whether") is True
    assert env.url("U", "", "where") == "https://x"
    assert env.names("L", "", "which ones") == ["a", "b", "c"]
    assert env.text("T", "", "what") == "t"
    assert [(known.name, known.default, known.meaning) for known in env.variables][:2] == [
        ("N", "1", "how many"),
        ("S", "1", "how large"),
    ]
    assert env.findings == []


@pytest.mark.parametrize("value", ["0", "10", "x", "-1", "1.0", "٣"])
def test_a_wrong_value_is_a_finding_and_the_default_stands(value: str) -> None:
    env = Environment({"N": value})
    assert env.number("N", "4", "", least=1, most=9) == 4
    [finding] = env.findings
    assert (finding.name, finding.value) == ("N", value)


def test_unset_and_empty_are_the_same() -> None:
    assert Environment({"N": ""}).number("N", "4", "", least=1, most=9) == 4
    assert Environment({}).flag("F", "0", "") is False
    assert Environment({"F": "yes"}).flag("F", "0", "") is False
    assert Environment({"U": "ftp://x"}).url("U", "", "") == ""


@pytest.mark.parametrize(
    "value", ["https://x/store", "https://x?a", "https://x#a", "https://u@x", "https://", "http://x:y", "http://x:0"]
)
def test_an_origin_has_no_more_than_a_host_and_a_port(value: str) -> None:
    env = Environment({"U": value})
    assert env.url("U", "", "") == ""
    assert [finding.value for finding in env.findings] == [value]
