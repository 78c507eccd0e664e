"""Two spellings of an address are one address, and whatever is none is none, without an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sscd_ops.core.urls import _read, covering, covers, digest, read_domain, read_url, reverse
from sscd_ops.errors import UsageError

PLAIN = "https://www.example.org/a/b.jpg"


@pytest.mark.parametrize(
    "spelt",
    [
        "http://www.example.org/a/b.jpg",
        "HTTPS://WWW.Example.ORG/a/b.jpg",
        "https://www.example.org./a/b.jpg",
        "https://www.example.org:443/a/b.jpg",
        "http://www.example.org:80/a/b.jpg",
        "http://www.example.org:/a/b.jpg",
        "https://somebody:secret@www.example.org/a/b.jpg",
        "https://www.example.org/a/b.jpg#top",
        "https://www.example.org/a/b.jpg?",
        "https://www.example.org/%61/b%2Ejpg",
        "https://www.example.org/x/%2e%2E/a/./b.jpg",
        "https://www%2eexample.org/a/b.jpg",
        " https://www.example.org/a/b\n.jpg\t",
        "https://www。example.org/a/b.jpg",
        "https://www.ex\u00adample.org/a/b.jpg",
    ],
)
def test_spellings_of_one_address_are_one(spelt: str) -> None:
    found = read_url(spelt)

    assert found == (PLAIN, "org.example.www.")
    assert found.sha256 == digest(PLAIN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://www.example.org/a/B.jpg", PLAIN),
        ("https://example.org/a/b.jpg", PLAIN),
        ("https://www.example.org:8080/a/b.jpg", PLAIN),
        ("https://www.example.org/a%2Fb.jpg", PLAIN),
        ("https://www.example.org/a/b.jpg?n=1", PLAIN),
        ("https://x.org/?a=1%26b=2", "https://x.org/?a=1&b=2"),
        ("https://x.org/?a=1+2", "https://x.org/?a=1%2B2"),
    ],
)
def test_what_differs_in_meaning_stays_apart(one: str, other: str) -> None:
    first, second = read_url(one), read_url(other)

    assert first is not None
    assert second is not None
    assert first.sha256 != second.sha256


@pytest.mark.parametrize(
    ("given_text", "text", "host"),
    [
        ("http://bücher.de/ü?ß=€", "https://xn--bcher-kva.de/%C3%BC?%C3%9F=%E2%82%AC", "de."),
        ("http://straße.de", "https://xn--strae-oqa.de/", "de.xn--strae-oqa."),
        ("http://BÜCHER.de", "https://xn--bcher-kva.de/", "de.xn--bcher-kva."),
        ("http://xn--bcher-kva.de", "https://xn--bcher-kva.de/", "de.xn--bcher-kva."),
        ("http://[::0001]:81/a", "https://[::1]:81/a", "[::1]."),
        ("http://127.0.0.1/a", "https://127.0.0.1/a", "[127.0.0.1]."),
        ("http://a_b.x.org/100%/%zz", "https://a_b.x.org/100%25/%25zz", "org.x.a_b."),
        ("http://x.org/File%3AA_%28b%29.jpg", "https://x.org/File:A_(b).jpg", "org.x."),
        ("http://x.org/a//../../..", "https://x.org/", "org.x."),
    ],
)
def test_the_normal_form(given_text: str, text: str, host: str) -> None:
    found = read_url(given_text)

    assert found is not None
    assert found.text == text
    assert found.host.startswith(host)


@pytest.mark.parametrize(
    "junk",
    [
        None, 3, b"https://x.org", ["https://x.org"], "", " ", "x", "example.org/a.jpg",
        "//x.org/a", "ftp://x.org/a", "s3://bucket/a.jpg", "data:image/png;base64,AAAA", "file:///a.jpg",
        "http://", "http:///a", "https://:443/a", "http://a..b/c", "http://.x.org", "http://1.2.3/a",
        "http://300.1.1.1/", "http://[::1/", "http://[::1%eth0]/", "http://x.org:port/",
        "http://x.org:65536/", "http://x.org:٣/", "http://a b.org/", "http://x.org\\a",
        "http://%FF.org/", "http://x℀.org/", f"http://{'a' * 64}.org/", f"http://{'ü' * 10**6}/",
        f"http://{'a.' * 127}org/", "http://x.org:" + "1" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_none(junk: Any) -> None:
    assert read_url(junk) is None


ANYTHING = st.text(max_size=40)
TRICKY = st.text(alphabet="aAüßİ./:@%#?&=+[]\\ 0129-_~\x00\ud800\u3002\u00ad", max_size=30)


@given(st.one_of(TRICKY, ANYTHING), st.one_of(TRICKY, ANYTHING))
@example("x.org", "%25%32%35")
@example("x.org:443", "a/..")
def test_the_normal_form_of_a_normal_form_is_itself(host: str, rest: str) -> None:
    for text in (f"http://{host}/{rest}", f"HTTPS://{host}{rest}", host, rest):
        found = read_url(text)
        if found is not None:
            assert read_url(found.text) == _read(found.text) == found
            assert found.text.isascii()
            assert not set(found.text) & set(" #\\\x00")
            assert found.host.isascii()


USUAL = st.from_regex(r"\Ahttps?://[a-z0-9_-]{1,3}(\.[a-z0-9-]{1,3}){1,3}/[a-z0-9./?%~&=-]{0,9}\Z")


@given(USUAL)
def test_the_short_way_of_usual_addresses_answers_the_same(text: str) -> None:
    assert read_url(text) == _read(text)


LABELS = st.from_regex(r"\A[a-z][a-z0-9-]{0,8}\Z")
HOSTS = st.lists(LABELS, min_size=2, max_size=5).map(".".join)


@given(HOSTS, LABELS, st.booleans())
def test_a_domain_covers_its_subdomains_and_no_neighbours(
    domain: str, label: str, capital: bool
) -> None:
    mine = reverse(read_domain(domain.upper() if capital else domain))

    for host, is_covered in [
        (domain, True),
        (f"{label}.{domain}", True),
        (f"{label}{domain}", False),
        (f"{domain}.{label}", f".{domain}.{label}".endswith(f".{domain}")),
        (domain.partition(".")[2], False),
    ]:
        found = read_url(f"http://{host}/x.jpg")
        assert found is not None
        assert covers(mine, found.host) == is_covered
        assert (mine in covering(found.host)) == is_covered


def test_no_domain_covers_an_ip_address_but_itself() -> None:
    host = read_url("http://10.0.0.1/a")

    assert host is not None
    assert covers(reverse(read_domain("10.0.0.1")), host.host)
    assert covering(host.host) == [host.host]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.", "example.org"),
        ("*.example.org", "example.org"),
        ("https://example.org/", "example.org"),
        ("HTTP://example.org:80", "example.org"),
        (" bücher.de ", "xn--bcher-kva.de"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_domain_is_understood_as_people_type_it(typed: str, meant: str) -> None:
    assert read_domain(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "is no domain"),
        ("a b", "is no domain"),
        ("*.*.org", "is no domain"),
        ("ftp://example.org", "is the address of a page"),
        ("https://example.org/about", "give its host alone"),
        ("example.org?x=1", "give its host alone"),
        ("me@example.org", "what stands after the @"),
        ("example.org:8080", "names a port"),
        ("org", "would cover all names below it"),
        ("*.org", "would cover all names below it"),
    ],
)
def test_what_is_no_domain_is_refused_with_a_sentence(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match="(?s)" + said):
        read_domain(typed)


@given(st.one_of(TRICKY, ANYTHING))
def test_a_domain_is_understood_or_refused(typed: str) -> None:
    try:
        meant = read_domain(typed)
    except UsageError:
        return

    assert read_domain(meant) == meant
