import pytest

from keys import secret_text


def test_a_new_secret_has_256_bits_and_comes_back() -> None:
    secret = secret_text.new_secret()
    assert len(secret) == 43
    assert secret.isalnum()
    assert secret != secret_text.new_secret()
    assert secret_text.parse(secret_text.key_text(12, secret)) == (12, secret)


@pytest.mark.parametrize(
    "text",
    [
        "", "whk", "whk_", "whk_1", "whk_1_", "whk__x", "whk_0_x", "whk_01_x", "whk_-1_x", "whk_+1_x", "whk_1.0_x",
        "whk_٣_x", "xyz_1_x", "WHK_1_x", f"whk_{1 << 63}_x", "whk_" + "9" * 5000 + "_x",
    ],
)  # fmt: skip
def test_other_texts_are_no_keys(text: str) -> None:
    assert secret_text.parse(text) is None


def test_only_the_secret_matches_its_hash() -> None:
    stored = secret_text.secret_hash("right")
    assert "right" not in stored
    assert secret_text.secret_matches("right", stored)
    assert not secret_text.secret_matches("wrong", stored)
    assert not secret_text.secret_matches("right", None)
