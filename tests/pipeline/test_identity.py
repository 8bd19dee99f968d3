import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import identity

texts = st.text(max_size=20)
settings_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_sample_ids_are_equal_only_for_equal_uri_and_version(a: tuple[str, str], b: tuple[str, str]) -> None:
    assert (identity.sample_id(*a) == identity.sample_id(*b)) == (a == b)


def test_the_border_between_uri_and_version_counts() -> None:
    assert identity.sample_id("ab", "c") != identity.sample_id("a", "bc")


edits = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        *[st.lists(texts, min_size=n, max_size=n).map(tuple)] * 3,
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.none() | texts, max_size=3).map(tuple),
    )
)


@given(edits, edits)
def test_edit_ids_are_equal_only_for_equal_edits(a: tuple, b: tuple) -> None:
    assert (identity.edit_id(*a) == identity.edit_id(*b)) == (a == b)


def test_edit_id_takes_a_whole_number_and_its_float_as_one() -> None:
    assert identity.edit_id(("a",), ("b",), ("c",), 1) == identity.edit_id(("a",), ("b",), ("c",), 1.0)


def test_edit_id_refuses_lists_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="must be as many"):
        identity.edit_id(("a", "b"), ("t",), ("r",), 1.0)


@given(st.dictionaries(texts, settings_trees, max_size=5))
def test_fingerprint_ignores_the_order_of_keys_and_survives_json(settings: dict) -> None:
    turned = dict(reversed(settings.items()))
    assert identity.fingerprint(settings) == identity.fingerprint(turned)
    assert identity.fingerprint(settings) == identity.fingerprint(json.loads(identity.canonical_json(settings)))


def test_fingerprint_refuses_nan() -> None:
    with pytest.raises(ValueError):
        identity.fingerprint({"a": float("nan")})


@given(st.lists(st.tuples(texts, texts, texts), max_size=5), st.randoms())
def test_part_key_depends_on_the_set_of_rows_alone(rows: list, random: Random) -> None:
    shuffled = random.sample(rows, len(rows))
    assert identity.part_key("edits", "ab", rows) == identity.part_key("edits", "ab", shuffled)
    assert identity.part_key("edits", "ab", [*rows, ("x", "y", "z")]) != identity.part_key("edits", "ab", rows)


@given(st.integers(0, 2**63 - 1), texts)
def test_noise_seed_fits_a_signed_64_bit_integer(seed: int, sha256: str) -> None:
    assert 0 <= identity.noise_seed(seed, sha256) < 2**63


def test_bucket_is_one_of_256() -> None:
    buckets = {f"{index:02x}" for index in range(256)}
    assert {identity.bucket_of(identity.sample_id("a", str(version))) for version in range(5000)} == buckets


def test_keys_are_these_for_good() -> None:
    """Stored outputs depend on these values: a change here orphans every output that exists."""
    sample = identity.sample_id("s3://bucket/a.png", "etag")
    edit = identity.edit_id(("smile",), ("broad smile",), ("change to broad smile",), 0.5)
    assert sample == "152b3ac8d204f7d6dcc5c969ed549c86da2325cb40431c7641e1a5c7b922ae23"
    assert edit == "7f3357c1a5728ad7d5ea7f2adf3a788d643a24fea3cf8571732018050d23d4ea"
    assert (
        identity.fingerprint({"b": 1, "a": {"c": 0.5}})
        == "1d91c86e82f865010a2150c0fad62acf9c0b075c2b1834d2c8882ab517e774b6"
    )
    assert identity.noise_seed(0, "00") == 5674294013629202323
    assert identity.image_key("s", "e", "f" * 64) == "images/s/e.ffffffffffffffff.png"
    assert (
        identity.part_key("edits", "ab", [("s", "e", "i")])
        == "edits/bucket=ab/part-306472921134008f60b5f7a92639d6635bc8af1ace5b3e719333499bea5e6031.parquet"
    )


def test_an_image_key_tells_what_it_was_made_of() -> None:
    sha256 = identity.sha256_bytes(b"x")
    assert identity.parse_image_key(identity.image_key("aa1", "e", sha256)) == ("aa1", "e", sha256[:16])
    assert identity.parse_image_key("images/aa1/notes.txt") is None
