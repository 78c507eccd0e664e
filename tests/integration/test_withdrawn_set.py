"""The withdrawn set: pictures that an order names, and what later nights make of their copies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest
from PIL import Image
from sqlalchemy.engine import Connection

from sscd_ops.catalog import decisions, sql, withdrawn_set
from sscd_ops.steps import history
from sscd_ops.steps.orders.copies import describe, gather_pictures
from sscd_ops.steps.parts import Parts, load_work
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.turns import Seen
from sscd_ops.steps.verify import verify_catalog, verify_index
from sscd_ops.steps.withdrawn_set import StoredPictures, add_pictures, store_pictures
from sscd_ops.testing import encode, picture, plant
from tests.integration.orders import Order, Ordered, apply
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import DATASET, World, pair

SHEET = encode(Image.new("RGB", (80, 60), "white"), 90)


class Withdrawal(Order):
    """Enters pictures, and nothing else: files' bytes, or digests."""

    def __init__(self, parts: Parts, key: str, files: Sequence[bytes], ids: Sequence[bytes] = ()):
        super().__init__(parts, key, {})
        with parts.catalog.begin() as conn:
            self.work = load_work(parts, decisions.newest_night(conn, self.dataset_id))
            self.order_id = sql.value(
                conn,
                "INSERT INTO sscd_ops.orders (dataset_id, verb, request, client_key, state, actor,"
                " why, drafted_by) VALUES (:d, 'withdraw', '{}', :k, 'drafted', 'ann', 'w', '{}')"
                " RETURNING order_id",
                d=self.dataset_id,
                k=key,
            )
        self.files = {hashlib.sha256(data).digest(): data for data in files}
        self.ids = ids
        self.stored: StoredPictures | None = None

    def work_out(self, seen: Seen, before: Ordered | None) -> Ordered:
        parts = self.parts
        with parts.catalog.begin() as conn:
            live = history.live_of(history.origins_of(conn, self.work, seen.dataset))
        given = describe(parts, self.work, self.files)
        pictures = gather_pictures(parts, self.work, seen.dataset, live, self.ids, given)
        self.stored = store_pictures(parts, DATASET, pictures)
        self.pictures = pictures
        return super().work_out(seen, before)

    def rows(self, worked: Ordered, decision_id: int) -> Iterator[tuple[str, pa.Table]]:
        assert self.stored is not None
        entries = self.stored.entries(self.order_id, decision_id)
        yield "withdrawn_images", withdrawn_set.entry_table(entries, self.dataset_id)

    def put(self, conn: Connection, worked: Ordered, decision_id: int, generation: int) -> bool:
        assert self.stored is not None
        fingerprint = self.work.attempt.fingerprint
        sql.run(
            conn,
            "UPDATE sscd_ops.orders SET state = 'applied', decision_id = :x, turn = :t"
            " WHERE order_id = :o",
            o=self.order_id,
            x=decision_id,
            t=worked.turn,
        )
        return add_pictures(
            conn, self.dataset_id, decision_id, generation, self.stored, fingerprint
        )


def withdraw(world: World, key: str, *files: bytes, ids: Sequence[bytes] = ()) -> int:
    with world.parts() as parts:
        order = Withdrawal(parts, key, files, ids)
        apply(order)
    return order.order_id


def end(world: World, order_id: int) -> None:
    """As a revert in the next turn would, of the entries alone."""
    with world.parts() as parts, parts.catalog.begin() as conn:
        sql.run(
            conn,
            "UPDATE sscd_ops.orders SET turn_to = (SELECT next_turn - 1 FROM sscd_ops.datasets)"
            " WHERE order_id = :o",
            o=order_id,
        )


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("perceptual", [False, True])
def test_later_nights_withdraw_what_is_near_to_an_entry(world: World, perceptual: bool) -> None:
    """Pictures that were never in the dataset, one of them plain."""
    if perceptual:
        world.change(duplicates=BOTH)
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    world.night(DAYS[0])
    withdraw(world, "case 77", picture(52), SHEET)
    half, jpeg = plant(picture(52), "half_size"), plant(picture(52), "jpeg_40")
    world.put(
        DAYS[1],
        "a.tar",
        [
            *clouds(range(4, 6)),
            pair("same", picture(52)),
            pair("jpeg", jpeg),
            pair("jpeg-again", jpeg, "other words"),
            pair("half", half),
            pair("sheet", SHEET),
            pair("grey", encode(Image.new("RGB", (80, 60), "grey"), 90)),
        ],
    )
    report = world.night(DAYS[1])
    world.put(DAYS[2], "a.tar", [pair("same3", picture(52)), pair("jpeg3", jpeg), pair("s", SHEET)])
    again = world.night(DAYS[2])

    assert report.counts.withdrawn == 5
    assert again.counts.withdrawn == again.counts.read == 3
    gone = ("same", "jpeg", "jpeg-again", "half", "sheet", "same3", "jpeg3", "s")
    verdicts = world.verdicts()
    assert {key: verdicts.pop(key) for key in gone} == dict.fromkeys(gone, "withdrawn withdrawn")
    assert set(verdicts.values()) == {"kept"}
    entry = {"witness_sha256": sha256(picture(52))}
    rows = {row["key"]: row for row in world.ask("SELECT * FROM sscd_ops.samples")}
    for key in ("same", "jpeg", "jpeg-again", "half", "same3", "jpeg3"):
        assert bytes(rows[key]["witness_sha256"]) == entry["witness_sha256"]
    assert rows["same"]["similarity"] is rows["same"]["threshold"] is None
    for key in ("jpeg", "half", "jpeg3"):
        assert rows[key]["similarity"] >= rows[key]["threshold"]
    by_hash = 1 - BOTH["perceptual_distance"] / 256  # type: ignore[operator]
    assert rows["half"]["threshold"] == (by_hash if perceptual else rows["jpeg"]["threshold"])
    assert_sound(world)


def assert_sound(world: World) -> None:
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        assert verify_index(parts, DATASET) == []


def test_two_entries_for_one_image_and_one_ends(world: World) -> None:
    """An image is stopped while any entry is in force; without one it is a newcomer."""
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    first = withdraw(world, "one", picture(50))
    second = withdraw(world, "two", picture(50), picture(51))
    end(world, first)
    world.put(DAYS[1], "a.tar", [pair("jpeg", plant(picture(50), "jpeg_40"))])
    world.night(DAYS[1])
    end(world, second)
    world.put(DAYS[2], "a.tar", [pair("half", plant(picture(50), "half_size"))])
    world.night(DAYS[2])

    assert world.verdicts()["jpeg"] == "withdrawn withdrawn"
    assert world.verdicts()["half"] == "kept"
    assert_sound(world)


def test_entries_of_known_images_have_what_nights_stored(world: World) -> None:
    """A lost segment of the set is made anew of theirs; of a picture that was given it is not."""
    world.put(DAYS[0], "a.tar", [*clouds(range(4)), pair("sheet", SHEET)])
    world.night(DAYS[0])
    withdraw(world, "known", ids=[sha256(picture(n)) for n in (1, 3)] + [sha256(SHEET), b"?" * 32])
    withdraw(world, "given", picture(60))
    known, given = world.ask(
        "SELECT s.files, m.mask, s.rows FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m"
        " USING (segment_id) WHERE s.role = 'withdrawn' ORDER BY s.segment_id"
    )
    assert (known["rows"], given["rows"]) == (2, 1)
    for file in (*known["files"].values(), known["mask"]):
        path = world.base / "root" / file["name"]
        before = path.read_bytes()
        path.unlink()
        with world.parts() as parts:
            assert verify_index(parts, DATASET) != []
            rebuild_index(parts, DATASET)
        assert path.read_bytes() == before
    assert_sound(world)
    path = world.base / "root" / given["files"]["descriptors"]["name"]
    path.unlink()
    with world.parts() as parts, pytest.raises(Exception, match=r"restore .* from a backup"):
        rebuild_index(parts, DATASET)


def test_a_free_image_is_stopped_too(world: World) -> None:
    world.put(DAYS[0], "a.tar", [*clouds(range(3)), pair("sheet", SHEET)])
    world.night(DAYS[0])
    with world.parts() as parts:
        apply(Order(parts, "free", {"c0001": "free", "sheet": "free"}))
    withdraw(world, "case", plant(picture(1), "jpeg_40"), SHEET)
    world.put(DAYS[1], "a.tar", [pair("again", picture(1)), pair("sheet2", SHEET)])

    world.night(DAYS[1])

    for key in ("again", "sheet2"):
        assert world.verdicts()[key] == "withdrawn withdrawn"
    (row,) = world.ask("SELECT * FROM sscd_ops.changes WHERE witness_sha256 <> image_sha256")
    assert bytes(row["image_sha256"]) == sha256(picture(1))
    assert row["verdict"] == "withdrawn"
    assert row["similarity"] >= row["threshold"]
    assert_sound(world)
