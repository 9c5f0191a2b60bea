"""Keys, scopes and fingerprints: what makes two requests the same operation, or not."""

from __future__ import annotations

import io
import json

import pytest
from django.contrib.auth.models import Group, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import RequestFactory
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from idempotency.decorators import idempotent
from idempotency.exceptions import InvalidKey
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ANONYMOUS, ScopedKey, digest, key_digest, parse_key, valid_key
from idempotency.models import IdempotencyRecord
from idempotency.payloads import request_material
from tests.project.models import Order

valid_keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)
texts = st.text(max_size=8)
the_same_every_time = profile(derandomize=True, database=None, deadline=None)

MALFORMED = {
    "empty": "",
    "blank": " \t ",
    "quoted empty": '""',
    "256 bare": "k" * 256,
    "256 quoted": '"' + "k" * 256 + '"',
    "256 after unescaping": '"' + r"\"" * 256 + '"',
    "sent twice": "first,second",
    "sent twice with a blank": "first, second",
    "quoted, sent twice": '"first","second"',
    "quoted, sent twice with a blank": '"first", "second"',
    "quoted, then bare": '"first", second',
    "a blank inside": "two words",
    "a tab inside": "two\twords",
    "a quote inside": 'mid"dle',
    "no closing quote": '"open',
    "no opening quote": 'close"',
    "only a quote": '"',
    "the closing quote is escaped": r'"open\"',
    "another escape": r'"\n"',
    "a backslash alone": '"\\"',
    "parameters": '"key";v=1',
    "parameters after a blank": '"key" ; v=1',
    "NUL": "key\x00",
    "a control character in quotes": '"key\x07"',
    "DEL": "key\x7f",
    "a line break": "key\n",
    "Latin-1": "clé",
    "Latin-1 in quotes": '"clé"',
    "a blank that is no ASCII": "key\xa0",
    "a digit that is no ASCII": "key\u0661",
}

ACCEPTED = {
    "bare": ("8e03-a1", "8e03-a1"),
    "quoted": ('"8e03-a1"', "8e03-a1"),
    "blanks around": (" \t8e03-a1 ", "8e03-a1"),
    "blanks around quotes": (' "8e03-a1"\t', "8e03-a1"),
    "255 bare": ("k" * 255, "k" * 255),
    "255 quoted": ('"' + "k" * 255 + '"', "k" * 255),
    "255 after unescaping": ('"' + r"\"" * 255 + '"', '"' * 255),
    "an escaped quote": (r'"say \"hi\""', 'say "hi"'),
    "an escaped backslash": (r'"C:\\dir"', r"C:\dir"),
    "an escaped backslash before the end": (r'"dir\\"', "dir\\"),
    "a bare backslash": (r"C:\dir", r"C:\dir"),
    "a placeholder": ("%s%(name)s%%", "%s%(name)s%%"),
    "trailing blanks in quotes": ('"key  "', "key  "),
    "a comma in quotes": ('"a,b"', "a,b"),
    "one blank in quotes": ('" "', " "),
    "parameters are part of a bare key": ("key;v=1", "key;v=1"),
    "punctuation": ("!#[]^~", "!#[]^~"),
    "SQL": ("'--;DROP/**/TABLE", "'--;DROP/**/TABLE"),
}


def as_string(key):
    """The key as a Structured Field string, RFC 8941 section 4.1.6."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_not_parsed(header):
    with pytest.raises(InvalidKey):
        parse_key(header)


@pytest.mark.parametrize(("header", "key"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_well_formed_key_is_parsed(header, key):
    assert parse_key(header) == key


@pytest.mark.parametrize("key", ["", "k" * 256, "clé", "a\nb", None, 7, b"bytes"])
def test_a_key_from_elsewhere_obeys_the_same_limits(key):
    with pytest.raises(InvalidKey):
        valid_key(key)


@the_same_every_time
@given(valid_keys)
def test_a_key_written_as_a_string_is_parsed_back(key):
    assert parse_key(as_string(key)) == key


@the_same_every_time
@given(st.text(max_size=40))
def test_whatever_is_sent_is_a_valid_key_or_refused(header):
    try:
        key = parse_key(header)
    except InvalidKey:
        return
    assert valid_key(key) == key
    assert parse_key(as_string(key)) == key


@the_same_every_time
@given(valid_keys, valid_keys)
def test_two_keys_share_a_digest_only_when_they_are_one(one, other):
    assert (key_digest(one) == key_digest(other)) == (one == other)


@the_same_every_time
@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_two_sequences_share_a_digest_only_when_they_are_one(one, other):
    assert (digest(b"test", one) == digest(b"test", other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("ab",), ("a", "b")),
        (("", "a"), ("a", "")),
        (("a", ""), ("a",)),
        (("1:a",), ("a",)),
        (("a1:b",), ("a", "b")),
    ],
)
def test_digests_know_where_a_part_ends(one, other):
    assert digest(b"test", one) != digest(b"test", other)


def test_digests_for_two_purposes_differ():
    assert digest(b"idem-key", ("a",)) != digest(b"idem-scope", ("a",))


def test_a_text_that_is_no_utf_8_has_a_digest():
    assert digest(b"test", ("\udcff",)) != digest(b"test", ("\udcfe",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ScopedKey(("user", "1"), "buy", "k"), ScopedKey(("user", "2"), "buy", "k")),
        (ScopedKey(("user", "1"), "buy", "k"), ScopedKey(("group", "1"), "buy", "k")),
        (ScopedKey(("user", "1"), "buy", "k"), ScopedKey(("user", "1"), "pay", "k")),
        (ScopedKey(("user", "11"), "buy", "k"), ScopedKey(("user1", "1"), "buy", "k")),
        (ScopedKey(("user", "1"), "1buy", "k"), ScopedKey(("user", "11"), "buy", "k")),
        (ScopedKey(ANONYMOUS, "buy", "k"), ScopedKey(("anonymous", "1"), "buy", "k")),
    ],
)
def test_scopes_differ_by_kind_pk_and_operation(one, other):
    assert one.scope != other.scope
    assert one.lock_id != other.lock_id


def test_a_rotated_secret_makes_no_key_new(settings):
    before = ScopedKey(("user", "1"), "buy", "k")
    settings.SECRET_KEY = "another"
    after = ScopedKey(("user", "1"), "buy", "k")
    assert (before.scope, before.key_digest, before.principal_digest, before.lock_id) == (
        after.scope,
        after.key_digest,
        after.principal_digest,
        after.lock_id,
    )


def test_an_anonymous_key_is_a_secret_and_not_kept():
    assert ScopedKey(ANONYMOUS, "buy", "k").kept_key == ""
    assert ScopedKey(("user", "1"), "buy", "k").kept_key == "k"


# Fingerprints


def material(path="/orders/", data=b'{"a":1}', content_type="application/json", method="post", **extra):
    return request_material(getattr(RequestFactory(), method)(path, data, content_type=content_type, **extra))


def multipart(boundary="one", field="note", value="v", name="file", filename="f.txt", content=b"content"):
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n',
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: text/plain\r\n\r\n",
    ]
    body = "".join(lines).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return material("/uploads/", body, f"multipart/form-data; boundary={boundary}")


def test_the_same_request_has_the_same_fingerprint():
    assert material() == material()


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/other-orders/"},
        {"method": "patch"},
        {"data": b'{"a":2}'},
        {"data": b'{"a": 1}'},
        {"data": b""},
        {"content_type": "text/plain"},
        {"path": "/orders/?dry=1"},
    ],
    ids=str,
)
def test_another_request_has_another_fingerprint(change):
    assert material(**change) != material()


def test_the_order_of_the_query_does_not_matter():
    assert material("/orders/?a=1&b=2") == material("/orders/?b=2&a=1")


@pytest.mark.parametrize(
    "query", ["a=2&b=1", "a=1", "a=1&b=2&b=2", "a=1&b=2&c=", "a=1b=2", "ab=12", "A=1&b=2"]
)
def test_another_query_has_another_fingerprint(query):
    assert material(f"/orders/?{query}") != material("/orders/?a=1&b=2")


def test_a_fingerprint_knows_where_a_part_ends():
    form = "application/x-www-form-urlencoded"
    assert material("/orders/?a=bc") != material("/orders/?ab=c")
    assert material("/plain/", b"a=bc", form) != material("/plain/", b"ab=c", form)
    assert multipart(name="file", filename="name") != multipart(name="filen", filename="ame")


def test_a_query_is_not_taken_for_a_body():
    assert material("/orders/?a=1", b"", "") != material("/orders/", b"a=1", "")


def test_the_parameters_of_the_media_type_do_not_matter():
    assert material(content_type="Application/JSON; charset=utf-8") == material()


def test_a_new_boundary_is_the_same_upload():
    assert multipart(boundary="one") == multipart(boundary="another")


@pytest.mark.parametrize(
    "change",
    [
        {"content": b"Content"},
        {"content": b""},
        {"field": "remark"},
        {"value": "w"},
        {"name": "attachment"},
        {"filename": "g.txt"},
    ],
    ids=str,
)
def test_another_file_or_field_is_another_upload(change):
    assert multipart(**change) != multipart()


def test_a_form_counts_by_its_fields():
    form = "application/x-www-form-urlencoded"
    assert material("/plain/", b"a=1&b=%32", form) == material("/plain/", b"b=2&a=1", form)
    assert material("/plain/", b"a=1&a=2", form) != material("/plain/", b"a=2&a=1", form)


def test_files_can_still_be_read_after_they_were_fingerprinted():
    file = SimpleUploadedFile("f.txt", b"content")
    request = RequestFactory().post("/uploads/", {"file": file})
    request_material(request)
    assert request.FILES["file"].read() == b"content"


def test_a_body_over_the_memory_limit_can_still_be_read(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    request = RequestFactory().post("/orders/", b"x" * 100, content_type="application/octet-stream")
    request_material(request)
    assert request.read() == b"x" * 100


def test_a_fingerprint_survives_the_rotation_of_the_secret(settings):
    stored = Fingerprint(b"asked").value
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert Fingerprint(b"asked").matches(stored)
    assert not Fingerprint(b"else").matches(stored)


def test_a_fingerprint_does_not_match_without_its_secret(settings):
    stored = Fingerprint(b"asked").value
    settings.SECRET_KEY = "another"
    assert not Fingerprint(b"asked").matches(stored)


# Over a request


@pytest.mark.django_db
class TestOnTheWire:
    @pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
    def test_a_malformed_key_is_refused_and_nothing_is_written(self, alice, header):
        response = alice.once("/orders/", key=header)
        assert (response.status_code, response["Content-Type"]) == (400, "application/problem+json")
        assert response["Cache-Control"] == "no-store"
        document = json.loads(response.content)
        assert (document["status"], document["code"]) == (400, "invalid-key")
        assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)

    @pytest.mark.parametrize(("header", "key"), ACCEPTED.values(), ids=ACCEPTED)
    def test_a_key_is_the_same_however_it_is_written(self, alice, header, key):
        assert alice.once("/orders/", key=header).status_code == 201
        assert alice.once("/orders/", key=as_string(key))["Idempotency-Replayed"] == "true"
        assert Order.objects.count() == 1
        assert IdempotencyRecord.objects.with_key(key).get().key == key

    def test_an_absent_key_is_missing_and_an_empty_one_invalid(self, alice):
        codes = [json.loads(alice.once("/orders/", key=key).content)["code"] for key in (None, "")]
        assert codes == ["missing-key", "invalid-key"]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(
        "keys",
        [
            ["Key-A", "key-a", "Key-A ", "Key-A  "],
            ["strasse", "STRASSE", " strasse", "stra\\sse"],
            ["0", "00", "0.0", "-0"],
            ["%s", "%%s", "%", "%25s"],
            ["a_b", "a%b", "a\\_b", "a*b"],
        ],
        ids=lambda keys: keys[0],
    )
    def test_no_collation_makes_two_keys_one(self, alice, keys):
        for key in keys * 2:
            assert alice.once("/orders/", {"reference": key}, key=as_string(key)).status_code == 201
        assert sorted(Order.objects.values_list("reference", flat=True)) == sorted(keys)
        assert [IdempotencyRecord.objects.with_key(key).count() for key in keys] == [1, 1, 1, 1]

    def test_the_same_key_on_another_operation_is_another_key(self, alice):
        answers = [alice.once(path, {"reference": "a"}) for path in ("/orders/", "/other-orders/")]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert Order.objects.count() == 2

    def test_the_same_key_of_another_user_is_another_key(self, alice, bob):
        answers = [caller.once("/orders/", {"reference": "a"}) for caller in (alice, bob)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert "Idempotency-Replayed" not in answers[1]
        assert Order.objects.count() == 2

    def test_principals_of_two_kinds_with_one_pk_are_apart(self):
        @idempotent(key="key", scope=lambda key, owner: owner, operation="of-an-owner")
        def place(key, owner):
            return Order.objects.create(reference=key, owner=type(owner).__name__).pk

        owners = [User.objects.create(pk=7, username="seven"), Group.objects.create(pk=7, name="seven")]
        assert len({place("k", owner) for owner in owners * 2}) == 2
        assert Order.objects.count() == 2

    def test_a_view_may_scope_by_tenant(self, alice):
        for tenant in ("one", "two", "one"):
            alice.once("/tenant/", headers={"X-Tenant": tenant})
        assert Order.objects.count() == 2

    def test_a_replay_survives_the_rotation_of_the_secret(self, alice, settings):
        alice.once("/orders/")
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another"
        assert alice.once("/orders/")["Idempotency-Replayed"] == "true"

    def test_a_dropped_secret_refuses_rather_than_runs_again(self, alice, settings):
        alice.once("/orders/")
        settings.SECRET_KEY = "another"
        assert alice.once("/orders/").status_code == 422
        assert Order.objects.count() == 1

    def test_other_white_space_is_another_payload(self, alice):
        bodies = ['{"reference":"a"}', '{"reference": "a"}']
        answers = [alice.once("/orders/", body, content_type="application/json") for body in bodies]
        assert [answer.status_code for answer in answers] == [201, 422]

    def test_a_retried_upload_is_replayed_though_its_boundary_is_new(self, alice):
        def send(boundary):
            body = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nx\r\n'
                f"--{boundary}--\r\n"
            )
            return alice.once("/uploads/", body, content_type=f"multipart/form-data; boundary={boundary}")

        assert send("one").json() == {"sizes": {"f": 1}, "fields": []}
        assert send("two")["Idempotency-Replayed"] == "true"

    def test_another_file_under_the_key_is_refused(self, alice):
        files = [io.BytesIO(content) for content in (b"one", b"two")]
        answers = [alice.once("/uploads/", {"f": file}, format="multipart") for file in files]
        assert [answer.status_code for answer in answers] == [201, 422]
        assert Order.objects.count() == 1
