"""`sscd-ops evaluate` on real pictures: made copies, DISC21, Copydays, pairs. No database."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sscd_ops.cli.main import main
from sscd_ops.descriptors import postprocess
from sscd_ops.descriptors.embedder import fingerprint_of, open_embedder
from sscd_ops.evaluation import tasks
from sscd_ops.evaluation.picture_sets import open_set
from sscd_ops.evaluation.transformations import TRANSFORMATIONS, Kind, make_copy
from sscd_ops.options import FingerprintOptions, Settings
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring
from tests.integration.world import pair

PICTURES = sorted((Path(__file__).parents[2] / "examples" / "pictures").glob("*.jpg"))


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


def evaluated(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    """The JSON of a run that is to succeed."""
    file = tmp_path / "numbers.json"
    result = call(*words, "--json", file, "--bootstrap", "20", "--look-alikes", "0")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def some(count: int, start: int = 0) -> list[bytes]:
    return [file.read_bytes() for file in PICTURES[start : start + count]]


# ---------------------------------------------------------------- made copies


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty real pictures, one of them twice, one broken, in two tars without captions."""
    base = tmp_path_factory.mktemp("mine")
    images = some(30)
    samples = [(f"k{number}", {"jpg": data}) for number, data in enumerate(images)]
    samples += [("again", {"jpg": images[3]}), ("broken", {"jpg": b"<html>"})]
    make_tar(base / "a.tar", samples[:16])
    make_tar(base / "b.tar", samples[16:])
    return base


@pytest.fixture(scope="module")
def made(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """Numbers, report and terminal output of one run with every transformation."""
    out = tmp_path_factory.mktemp("out")
    result = call(
        "--make-copies", f"{mine}/*.tar", "--model", "dct", "--each", "3", "--bootstrap", "50",
        "--look-alikes", "8", "--json", out / "e.json", "--report", out / "e.html",
        "--histogram", out / "e.svg",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (out / "e.svg").read_text().startswith("<svg")
    return json.loads((out / "e.json").read_text()), (out / "e.html").read_text(), result.output


def test_made_copies_are_scored_by_transformation_and_severity(
    made: tuple[dict[str, Any], str, str],
) -> None:
    numbers, _, _ = made
    model = numbers["models"][0]
    recall = {
        (k["kind"]["transformation"], k["kind"]["severity"]): k["recall"] for k in model["kinds"]
    }

    assert set(recall) == {
        (item.name, severity)
        for item in TRANSFORMATIONS
        for severity in range(1, len(item.strengths) + 1)
    }
    for name in ("byte_copy", "jpeg", "webp", "avif", "resize"):
        assert recall[name, 1] == 1.0
    assert recall["crop", 3] == 0.0  # the baseline's known limit
    assert {k["kind"]["transformation"] for k in model["kinds"] if k["unseen"]} == {
        "screenshot", "collage", "caption_bar", "perspective", "avif", "photo_filter",
    }  # fmt: skip
    assert all(k["queries"] == 3 for k in model["kinds"])


def test_the_facts_say_what_was_read_and_made(made: tuple[dict[str, Any], str, str]) -> None:
    facts = made[0]["facts"]
    assert facts["pictures"] == 30
    assert facts["equal_bytes"] == 1
    assert facts["left_out"] == {"not_an_image": 1}
    assert facts["references"] + facts["outsiders"] == 30
    assert (
        facts["copies_of_references"]
        == made[0]["true_pairs"]
        == 3 * len(made[0]["models"][0]["kinds"])
    )


def test_thresholds_ranking_tail_and_look_alikes_are_there(
    made: tuple[dict[str, Any], str, str],
) -> None:
    model = made[0]["models"][0]
    [plain] = model["variants"]
    summary = plain["summary"]
    low, high = summary["micro_ap_interval"]
    assert low <= summary["micro_ap"] <= high
    thresholds = [summary["points"][p]["threshold"] for p in ("0.9", "0.99", "0.999")]
    assert thresholds == sorted(thresholds)
    assert sum(model["histogram"]["copies"]) == made[0]["true_pairs"]
    [at, *_] = model["false_matches"]
    assert at["threshold"] == 0.5
    assert at["pairs"] == 30 * 29 // 2
    assert at["extrapolation"] is True
    assert at["by_size"] == []  # 200 peaks of 435 pairs are no tail
    assert any("too few to fit a tail" in line for line in made[2].splitlines())
    assert {item["name"] for item in model["hard"]} == {
        "pages", "charts", "slides", "colour_variants", "bursts", "plain",
    }  # fmt: skip
    assert any("--training" in note for note in model["notes"])


def test_the_report_is_one_file_a_person_can_read(made: tuple[dict[str, Any], str, str]) -> None:
    html = made[1]
    assert html.count("<svg") == 2
    assert "an extrapolation" in html
    assert "never shown in training" not in html + made[2]  # dct and PDQ know no training
    assert "sscd-ops train never shows" in html
    assert "(* edits that sscd-ops train never shows)" in made[2]
    assert re.findall(r'src="([^"]{16})', html) == ["data:image/jpeg;"]
    assert "<script" not in html
    body = html[html.index("<body>") : html.index("</html>")]
    tables = ElementTree.fromstring(body).findall(".//table")  # noqa: S314 - our own output
    assert len(tables) >= 7  # every tag is closed
    assert not re.search(r'(?:href|src)="(?!data:)', html)


def test_the_terminal_shows_the_tables(made: tuple[dict[str, Any], str, str]) -> None:
    said = made[2]
    for part in ("uAP", "R@P90", "acc@1", "threshold for 99.9%", "caption_bar*", "colour_variants"):
        assert part in said
    grid = re.search(r"^crop +3 +(\S+) +(\S+) +(\S+)$", said, re.MULTILINE)
    assert grid
    assert grid[1] >= grid[2] >= grid[3]


def test_equal_pictures_and_seed_give_equal_numbers(mine: Path, tmp_path: Path) -> None:
    words = (
        "--make-copies", f"{mine}/a.tar", "--model", "dct", "--each", "2", "--workers", "1",
        "--transformation", "text", "--transformation", "collage", "--limit", "12",
    )  # fmt: skip
    runs = [evaluated(tmp_path, *words) for _ in range(2)]
    for run in runs:
        assert run["facts"]["pictures"] == 12
        run["models"][0].pop("images_per_second")
    assert runs[0] == runs[1]


def test_a_list_says_which_pictures_are_taken_and_distractors_join_the_references(
    mine: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "held_out.csv"
    listed.write_text("".join(f"k{number}.jpg,source\n" for number in range(14)))
    more = folder(tmp_path / "d", {f"{n}.jpg": data for n, data in enumerate(some(9, 70))})

    numbers = evaluated(
        tmp_path, "--make-copies", f"{mine}/*.tar", "--each", "2", "--transformation", "jpeg",
        "--model", "dct", "--only", listed, "--distractors", more,
    )  # fmt: skip

    facts = numbers["facts"]
    assert facts["pictures"] == 14
    assert facts["distractors"] == 9
    assert numbers["references"] == facts["references"] + 9
    assert numbers["models"][0]["false_matches"][0]["pairs"] == 14 * 13 // 2  # of one's own alone
    assert numbers["models"][0]["variants"][0]["summary"]["accuracy_at_1"] == 1.0


def test_without_draws_no_interval_is_made_up(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "p", {f"{n}.jpg": data for n, data in enumerate(some(100))})
    file = tmp_path / "e.json"
    result = call(
        "--make-copies", pictures, "--model", "dct", "--each", "3", "--transformation", "crop",
        "--look-alikes", "0", "--bootstrap", "0", "--json", file,
    )  # fmt: skip

    model = json.loads(file.read_text())["models"][0]
    assert model["at_threshold"]["recall_interval"] is None
    by_size = model["false_matches"][0]["by_size"]
    assert [item["history"] for item in by_size] == [10**k for k in range(4, 10)]
    assert all(item["expected"] > 0 for item in by_size)
    assert all(item["low"] is item["high"] is None for item in by_size)
    assert not re.search(r"\([\d.,e+-]+\)", result.output)


def test_what_is_wrong_with_whole_shards_is_said(mine: Path, tmp_path: Path) -> None:
    whole = (mine / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: int(len(whole) * 0.8)])
    (tmp_path / "none.tar").write_bytes(b"no tar")
    few = ("--each", "1", "--transformation", "jpeg", "--model", "dct", "--look-alikes", "0")

    numbers = evaluated(
        tmp_path, "--make-copies", tmp_path / "cut.tar", tmp_path / "none.tar", *few
    )
    refused = call("--make-copies", tmp_path / "none.tar", *few)

    assert numbers["facts"]["left_out"]["truncated_shard"] == 1
    assert numbers["facts"]["left_out"]["unreadable_shard"] == 1
    assert refused.exit_code == 2
    assert "none.tar: unreadable_shard: " in refused.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--threshold", "1.5"), "above 0 and at most 1, not 1.5"),
        (("--threshold", "nan"), "above 0 and at most 1, not nan"),
        (("--model", "pdq", "--weights", "x"), "--weights is for models: pdq has none"),
        (("--model", "pdq", "--engine", "openvino"), "--engine is for models: pdq has none"),
        (("--model", "dct", "--engine", "openvino"), "is for networks: dct has none"),
        (("--model", "dct", "--weights", "x"), "fingerprint.weights 'x' is for networks"),
        (("--report", "/"), "/ is a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    mine: Path, words: tuple[str, ...], said: str
) -> None:
    result = call("--make-copies", mine / "a.tar", *words)
    assert result.exit_code == 2
    assert said in result.output


def test_a_limit_takes_shards_that_the_seed_draws(tmp_path: Path) -> None:
    for name in "abcdef":
        make_tar(
            tmp_path / f"{name}.tar",
            [(f"{name}{n}", {"jpg": picture(n, 64, 48)}) for n in range(4)],
        )
    rooms, urls = Wiring(Settings()), [f"{tmp_path}/*.tar"]

    def taken(seed: int, limit: int) -> list[str]:
        return open_set(rooms, urls, limit=limit, seed=seed).names

    drawn = [taken(seed, 6) for seed in range(6)]
    assert drawn == [taken(seed, 6) for seed in range(6)]
    assert all(len(names) == 6 and names == sorted(names) for names in drawn)
    assert {name[0] for names in drawn for name in names} == set("abcdef")
    # where all is taken the seed moves nothing
    assert taken(0, 24) == taken(1, 0) == open_set(rooms, urls).names


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that whitens sscd_small in bfloat16 to 4 dimensions."""
    base = tmp_path_factory.mktemp("fitted")
    options = FingerprintOptions("sscd_small", precision="bfloat16", device="cpu", workers=1)
    with open_embedder(options, base) as embedder:
        rows = np.concatenate([chunk.descriptors for chunk in embedder.embed(some(60))])
        found = postprocess.fit(rows, embedder.fingerprint, whiten=True, dimensions=4)
    postprocess.write(found, base / "w.safetensors")
    return base / "w.safetensors"


def test_postprocessing_and_precision_are_those_asked_for(
    mine: Path, tmp_path: Path, fitted: Path
) -> None:
    words = (
        "--make-copies", mine / "a.tar", "--each", "2", "--transformation", "jpeg",
        "--model", "sscd_small", "--device", "cpu", "--postprocessing", fitted,
    )  # fmt: skip

    precise = ("--precision", "bfloat16")
    [model] = evaluated(tmp_path, *words, *precise)["models"]
    [chosen] = evaluated(tmp_path, *words, *precise, "--threshold", "0.9")["models"]
    refused = call(*words)  # it was fitted to descriptors of another precision
    two = call(
        "--make-copies", mine / "a.tar", "--model", "dct", "--model", "pdq", "--threshold", "1"
    )

    options = FingerprintOptions(
        "sscd_small", precision="bfloat16", postprocessing=str(fitted), device="cpu"
    )
    assert model["fingerprint"] == str(fingerprint_of(options, tmp_path))
    assert model["variants"][0]["summary"]["accuracy_at_1"] == 1.0
    said = "sscd_small's threshold was measured without postprocessing"
    assert any(said in note for note in model["notes"])
    assert not any(said in note for note in chosen["notes"])
    assert refused.exit_code == 2
    assert "fit it with the same model, weights, preprocessing" in refused.output
    assert two.exit_code == 2
    assert "--threshold belongs to one model" in two.output


def test_try_decides_after_postprocessing_by_the_threshold_given(
    mine: Path, tmp_path: Path, fitted: Path
) -> None:
    words = ["try", f"{mine}/a.tar", "--missing-caption", "keep", "--device", "cpu"]
    words += ["--model", "sscd_small", "--precision", "bfloat16", "--postprocessing", str(fitted)]
    words += ["--sheet", str(tmp_path / "s.png")]

    refused = CliRunner().invoke(main, words)
    tried = CliRunner().invoke(main, [*words, "--threshold", "0.99", "--format", "json"])

    assert refused.exit_code == 2
    assert (
        "give --threshold: none was measured for sscd_small with postprocessing" in refused.output
    )
    assert tried.exit_code == 0, tried.output


def test_a_list_is_taken_whole_and_its_unknown_names_are_counted(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MOST_PICTURES", 15)
    listed = tmp_path / "held_out.csv"
    names = [f"k{number}" for number in range(20)] + ["broken", "k77", "k99"]
    listed.write_text("key,split\n" + "".join(f"{name},test\n" for name in names))
    words = ("--make-copies", f"{mine}/*.tar", "--each", "1", "--transformation", "jpeg")
    words += ("--model", "dct")

    whole = evaluated(tmp_path, *words, "--only", listed)["facts"]
    cut = evaluated(tmp_path, *words, "--only", listed, "--limit", "12")["facts"]
    unlisted = evaluated(tmp_path, *words)["facts"]

    assert (whole["pictures"], whole["left_out"]) == (20, {"not_an_image": 1})
    assert (whole["names_listed"], whole["names_of_no_picture"], whole["such_as"]) == (23, 2, "k77")
    assert cut["pictures"] == 12
    assert "names_of_no_picture" not in cut  # not all was read, so nobody knows
    assert unlisted["pictures"] == 15 - unlisted.get("equal_bytes", 0)


def test_a_list_of_other_pictures_is_told_in_a_sentence(mine: Path, tmp_path: Path) -> None:
    listed = tmp_path / "blobs.csv"
    listed.write_text("test,ahorst,026731d\n")
    result = call("--make-copies", f"{mine}/*.tar", "--model", "dct", "--only", listed)
    assert result.exit_code == 2
    assert "no picture has any of the 1 names given by --only, such as 'test'" in result.output


def test_training_pictures_give_whitening_and_score_normalisation(
    mine: Path, tmp_path: Path
) -> None:
    """dct has 407 dimensions: 430 chance pictures are just enough to whiten it."""
    background = make_tar(
        tmp_path / "background.tar", [pair(f"t{n}", picture(n, 64, 48)) for n in range(430)]
    )
    numbers = evaluated(
        tmp_path, "--make-copies", mine / "a.tar", "--each", "3", "--transformation", "jpeg",
        "--transformation", "crop", "--model", "dct", "--training", background,
    )  # fmt: skip
    variants = {v["name"]: v["summary"] for v in numbers["models"][0]["variants"]}
    assert list(variants) == ["plain", "score norm", "whitened", "whitened + score norm"]
    # the bias is one number a query, so the order within a query cannot change
    assert variants["score norm"]["accuracy_at_1"] == variants["plain"]["accuracy_at_1"]
    assert variants["score norm"]["micro_ap"] != variants["plain"]["micro_ap"]


def test_too_few_training_pictures_are_noted_and_the_rest_goes_on(
    mine: Path, tmp_path: Path
) -> None:
    background = folder(tmp_path / "t", {f"{n}.jpg": picture(n) for n in range(5)})
    numbers = evaluated(
        tmp_path, "--make-copies", mine / "a.tar", "--each", "2", "--transformation", "jpeg",
        "--model", "dct", "--training", background,
    )  # fmt: skip
    model = numbers["models"][0]
    assert [v["name"] for v in model["variants"]] == ["plain", "score norm"]
    assert any("more than 407 training pictures" in note for note in model["notes"])


def test_pdq_runs_beside_a_model_on_the_same_copies(mine: Path, tmp_path: Path) -> None:
    numbers = evaluated(
        tmp_path, "--make-copies", f"{mine}/*.tar", "--each", "4", "--transformation", "jpeg",
        "--transformation", "rotate", "--model", "dct", "--model", "pdq", "--model", "dct",
    )  # fmt: skip
    dct, pdq = numbers["models"]
    assert pdq["at_threshold"]["threshold"] == 1 - 31 / 128
    [both] = numbers["cascades"]
    assert (both["first"], both["second"]) == ("dct", "pdq")
    for point in both["points"]:
        assert point["recall"] >= max(point["first_alone"], point["second_alone"])
    assert pdq["kinds"][0]["recall"] == dct["kinds"][0]["recall"] == 1.0
    assert all(abs(k["median"] * 128 - round(k["median"] * 128)) < 1e-9 for k in pdq["kinds"][::2])


# ---------------------------------------------------------------- known layouts


def edit(data: bytes, name: str, severity: int = 1) -> bytes:
    return make_copy(data, Kind(name, severity))


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """DISC21 in small: 9 references, 4 queries with a match, 5 without, one that is not listed."""
    references, others = some(9), some(6, 40)
    queries = {0: edit(references[2], "jpeg"), 1: edit(references[5], "resize")}
    queries |= {2: edit(references[7], "text"), 3: edit(references[1], "crop", 3)}
    queries |= {4 + n: edit(data, "jpeg") for n, data in enumerate(others)}
    return {
        **{f"R{n:06}.jpg": data for n, data in enumerate(references)},
        **{f"Q{n:05}.jpg": data for n, data in queries.items()},
        **{f"T{n:06}.jpg": data for n, data in enumerate(some(8, 60))},
    }


TRUTH = ["Q00000,R000002", "Q00001,R000005", "Q00002,R000007", "Q00003,R000001"]


@pytest.mark.parametrize("layout", ["sscd", "isc"])
def test_disc21_in_both_layouts(disc: dict[str, bytes], tmp_path: Path, layout: str) -> None:
    root = tmp_path / "disc"
    where = (
        {"Q": "val_query", "R": "val_ref", "T": "training"}
        if layout == "sscd"
        else {"Q": "images/queries", "R": "images/references", "T": "images/train"}
    )
    folder(root, {f"{where[name[0]]}/{name}": data for name, data in disc.items()})
    if layout == "sscd":
        (root / "val_groundtruth_matches.csv").write_text("\n".join(TRUTH) + "\n")
    else:
        (root / "list_files").mkdir()
        without = [f"Q{n:05}," for n in range(4, 9)]  # Q00009 is not listed
        (root / "list_files" / "public_ground_truth.csv").write_text(
            "\n".join(["query_id,reference_id", *TRUTH, *without]) + "\n"
        )

    numbers = evaluated(tmp_path, "--disc21", root, "--model", "dct")

    assert numbers["queries"] == (10 if layout == "sscd" else 9)
    assert (numbers["references"], numbers["true_pairs"]) == (9, 4)
    model = numbers["models"][0]
    summary = model["variants"][0]["summary"]
    # three mild copies come first, the crop is lost to the baseline
    assert summary["accuracy_at_1"] >= 0.75
    assert summary["micro_ap"] >= 0.75
    assert summary["points"]["0.9"]["recall"] >= 0.75
    assert [v["name"] for v in model["variants"]] == ["plain", "score norm"]
    assert model["at_threshold"]["recall"] == 0.75
    if layout == "isc":
        assert numbers["facts"]["queries_not_listed"] == 1


def test_copydays_with_distractors(tmp_path: Path) -> None:
    originals = some(4)
    files: dict[str, bytes] = {}
    for number, data in enumerate(originals):
        files[f"original/2{number:02}000.jpg"] = data
        files[f"jpegqual/50/2{number:02}000.jpg"] = edit(data, "jpeg", 2)
        files[f"crops/50/2{number:02}000.jpg"] = edit(data, "crop", 3)
        files[f"strong/2{number:02}001.jpg"] = edit(data, "blur")
        files[f"strong/2{number:02}002.jpg"] = edit(data, "grayscale")
    root = folder(tmp_path / "copydays", files)
    distractors = folder(
        tmp_path / "more", {f"d{n}.jpg": data for n, data in enumerate(some(6, 50))}
    )

    numbers = evaluated(
        tmp_path, "--copydays", root, "--distractors", distractors, "--model", "dct"
    )

    assert (numbers["queries"], numbers["references"]) == (20, 10)
    model = numbers["models"][0]
    by = {(k["kind"]["transformation"], k["kind"]["severity"]): k for k in model["kinds"]}
    assert set(by) == {("original", 0), ("strong", 0), ("jpegqual", 50), ("crops", 50)}
    for name in (("original", 0), ("jpegqual", 50), ("strong", 0)):
        assert by[name]["mean_ap"] == 1.0
    assert by["strong", 0]["queries"] == 8
    assert by["crops", 50]["mean_ap"] < 1.0
    # sixteen of twenty queries come before anything wrong: that much of the pooled curve is perfect
    assert 0.8 <= model["overall_trapezoid_ap"] <= 1.0


def test_a_copydays_block_of_another_length_is_refused(tmp_path: Path) -> None:
    one, other = some(2)
    root = folder(
        tmp_path, {"original/a.jpg": one, "original/b.jpg": other, "jpegqual/5/a.jpg": one}
    )
    result = call("--copydays", root, "--model", "dct")
    assert result.exit_code == 2
    assert "the i-th file is to show the i-th original" in result.output


def test_a_copydays_block_shifted_by_a_bad_file_on_each_side_is_refused(tmp_path: Path) -> None:
    files = {f"original/{n}00.jpg": picture(n) for n in range(4)}
    files |= {f"jpegqual/50/{n}00.jpg": picture(n) for n in range(4)}
    files |= {"original/000.jpg": b"no picture", "jpegqual/50/200.jpg": b"no picture"}
    root = folder(tmp_path / "copydays", files)

    result = call("--copydays", root, "--model", "dct")

    assert result.exit_code == 2
    assert "100 is picture 2 there and 1 of the originals" in result.output


def test_pairs_of_a_folder_and_tars(tmp_path: Path) -> None:
    images = some(6)
    queries = folder(
        tmp_path / "q", {f"x/{n}.jpg": edit(d, "jpeg") for n, d in enumerate(images[:4])}
    )
    references = make_tar(
        tmp_path / "r.tar", [(f"ref{n}", {"jpg": data}) for n, data in enumerate(images)]
    )
    truth = tmp_path / "pairs.csv"
    truth.write_text("query_id,reference_id\nx/0.jpg,ref0\n1,ref1.jpg\n2.jpg,ref2\n3,\n")

    numbers = evaluated(
        tmp_path, "--pairs", truth, "--queries", queries, "--references", references,
        "--model", "dct", "--hard", f"same={queries}",
    )  # fmt: skip

    assert numbers["true_pairs"] == 3
    model = numbers["models"][0]
    assert model["variants"][0]["summary"]["accuracy_at_1"] == 1.0
    assert model["kinds"] == []
    # query 3 is a copy that the csv does not know: it shows among the look-alikes to look at
    assert model["look_alike"][0]["query"] == 3
    assert [(h["name"], h["made"], h["could"], h["merged"]) for h in model["hard"]] == [
        ("same", False, 3, 0)
    ]


# ---------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "exactly one of --make-copies"),
        (["--make-copies"], "PICTURES belong to --make-copies"),
        (["--disc21", "x", "--copydays", "y"], "exactly one of"),
        (["--disc21", "/nowhere"], "no DISC21 queries: expected one of val_query"),
        (["--copydays", "/nowhere"], "expected folders original, strong"),
        (["--pairs", "p.csv"], "--pairs needs --queries and --references"),
        (["--make-copies", "/nowhere/*.tar"], "nothing found at /nowhere"),
        (["--make-copies", "in/{date}/*.tar"], "no placeholders here"),
        (["--make-copies", "a.tar", "b"], "of several kinds"),
        (["--make-copies", "b/*.JPG"], "pictures are no source: give the folder they lie in"),
        (["--make-copies", "/nowhere/jpg"], "nothing found at /nowhere/jpg"),
        (["--make-copies", "/nowhere/*.tar", "--hard", "x"], "--hard 'x': expected NAME=URL"),
        (["--make-copies", "x", "--transformation", "magic"], "no transformation 'magic'"),
        (["--make-copies", "x", "--only", "/nowhere.txt"], "/nowhere.txt: cannot be read"),
        (
            ["--make-copies", "x", "--model", "dct", "--model", "pdq", "--postprocessing", "f"],
            "one",
        ),
        (["--make-copies", "x", "--report", "/nowhere/r.html"], "its folder is not there"),
        (["--make-copies", "x", "--model", "dct", "--model", "pdq", "--weights", "f"], "one model"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(words: list[str], said: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_pair_of_a_picture_that_is_not_there(tmp_path: Path) -> None:
    images = folder(tmp_path / "q", {"a.jpg": some(1)[0]})
    truth = tmp_path / "pairs.csv"
    truth.write_text("a,b\n")
    result = call("--pairs", truth, "--queries", images, "--references", images, "--model", "dct")
    assert result.exit_code == 2
    assert "reference 'b' is no readable picture" in result.output


def test_too_few_pictures_say_how_many_are_needed(tmp_path: Path) -> None:
    images = folder(tmp_path, {"a.jpg": some(1)[0]})
    result = call("--make-copies", images, "--model", "dct")
    assert result.exit_code == 2
    assert "too few" in result.output


def test_formats_hold_the_figures_alone(mine: Path) -> None:
    words = ("--make-copies", mine / "a.tar", "--each", "1", "--model", "dct", "--look-alikes", "0")
    result = CliRunner().invoke(
        main, ["evaluate", *map(str, words), "--transformation", "jpeg", "--format", "json"]
    )
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["severity"] for row in rows] == [1, 2, 3]
    assert np.all([row["recall"] == "1.00" for row in rows])


@pytest.mark.parametrize("command", [["evaluate", "--make-copies"], ["try"]])
def test_weights_that_are_nowhere_are_told_before_anything_is_read(command: list[str]) -> None:
    result = CliRunner().invoke(
        main, [*command, "/nowhere", "--model", "sscd_disc_mixup", "--weights", "/nowhere.pt"]
    )
    assert result.exit_code == 1
    assert "/nowhere.pt" in result.output
