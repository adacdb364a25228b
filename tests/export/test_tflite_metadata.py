"""Metadata of a .tflite: the public TFLite Metadata, our own entry, the labels, and reading them back."""

import json
import zipfile
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_sketch import Sketch, mobilenet_v3_chain, run

from qmnv3.errors import ExportError, ModelFileError
from qmnv3.export.tflite import build_tflite, read_metadata, write_tflite
from qmnv3.ir import Flatten, Mean, Metadata, QuantGraph
from qmnv3.preprocessing import Preprocessing

LABELS = ("tench, Tinca tinca", "crème brûlée", "三", "")
PREPROCESSING = Preprocessing(32, 36, interpolation="bicubic")


def classifier(metadata: Metadata) -> QuantGraph:
    s = Sketch(quantized=True)
    x = s.unary(Mean, s.conv(s.image(1, 32, 32, 3), 4))
    return s.graph(s.unary(Flatten, x), metadata=metadata)


def write(path: Path, metadata: Metadata) -> bytes:
    write_tflite(classifier(metadata), path)
    return path.read_bytes()


def test_own_metadata_survives_exactly(tmp_path: Path) -> None:
    metadata = Metadata("v3 small ü", PREPROCESSING, LABELS)
    write(tmp_path / "model.tflite", metadata)

    assert read_metadata(tmp_path / "model.tflite") == metadata


def test_a_model_without_labels_has_no_archive(tmp_path: Path) -> None:
    metadata = Metadata("plain", PREPROCESSING)
    write(tmp_path / "model.tflite", metadata)

    assert not zipfile.is_zipfile(tmp_path / "model.tflite")
    assert read_metadata(tmp_path / "model.tflite") == metadata


def test_labels_are_an_uncompressed_zip_member_and_the_model_still_runs(tmp_path: Path) -> None:
    metadata = Metadata("labelled", PREPROCESSING, tuple(f"class {i}" for i in range(10)))
    sketch = mobilenet_v3_chain(True)
    plain, labelled = (
        build_tflite(sketch.graph("logits", metadata=m))
        for m in (Metadata("labelled", PREPROCESSING), metadata)
    )
    (tmp_path / "model.tflite").write_bytes(labelled)

    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        (info,) = archive.infolist()
        assert archive.testzip() is None and info.date_time == (1980, 1, 1, 0, 0, 0)
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read("labels.txt").decode().splitlines() == list(metadata.labels)
    feed = sketch.feed()
    assert (run(plain, feed, "xnnpack")["logits"] == run(labelled, feed, "xnnpack")["logits"]).all()


def test_own_entry_is_json_with_the_preprocessing() -> None:
    model = schema.ModelT.InitFromPackedBuf(build_tflite(classifier(Metadata("net", PREPROCESSING, LABELS))))
    (entry,) = [m for m in model.metadata if m.name == b"QMNV3_METADATA"]
    value = json.loads(model.buffers[entry.buffer].data.tobytes())

    assert Preprocessing.from_json(value["preprocessing"]) == PREPROCESSING
    assert (value["name"], value["labels"]) == ("net", 4)


def test_standard_metadata_is_the_fallback(tmp_path: Path) -> None:
    data = write(tmp_path / "model.tflite", Metadata("net", PREPROCESSING, LABELS))
    (tmp_path / "model.tflite").write_bytes(data.replace(b"QMNV3_METADATA", b"OTHER_METADATA"))

    # Resize and interpolation have no field there: 256/224 of the crop and bilinear.
    assumed = Preprocessing(32, 37, PREPROCESSING.mean, PREPROCESSING.std, "bilinear")
    assert read_metadata(tmp_path / "model.tflite") == Metadata("net", assumed, LABELS)


def test_googles_metadata_is_read(data_pack: Path) -> None:
    metadata = read_metadata(data_pack / "peers/google_v2_1.0_qat_uint8.tflite")

    assert metadata is not None
    assert metadata.preprocessing == Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert len(metadata.labels) == 1001
    assert metadata.labels[:2] == ("background", "tench, Tinca tinca")


def test_standard_metadata_has_googles_table_layout(data_pack: Path) -> None:
    """Identifier, ImageProperties and the RGB colour space sit where Google's own writer puts them."""

    def standard(data: bytes) -> bytes:
        model = schema.ModelT.InitFromPackedBuf(data)
        (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
        return model.buffers[entry.buffer].data.tobytes()

    half = (0.5, 0.5, 0.5)
    ours = standard(build_tflite(classifier(Metadata("net", Preprocessing(32, 36, half, half), LABELS))))
    theirs = standard((data_pack / "peers/google_v2_1.0_qat_uint8.tflite").read_bytes())

    assert ours[4:8] == theirs[4:8] == b"M001"
    assert image_content(ours) == image_content(theirs) == (2, 1)


def image_content(metadata: bytes) -> tuple[int, int]:
    """ContentProperties type and colour space of the first input, by the public schema's field numbers."""

    def follow(table: Table, slot: int, vector: bool = False) -> Table:
        offset = table.Offset(4 + 2 * slot)
        at = table.Vector(offset) if vector else table.Pos + offset
        return Table(metadata, table.Indirect(at))

    def byte(table: Table, slot: int) -> int:
        return table.Get(number_types.Int8Flags, table.Pos + table.Offset(4 + 2 * slot))

    root = Table(metadata, int.from_bytes(metadata[:4], "little"))
    content = follow(follow(follow(root, 3, vector=True), 2, vector=True), 3)
    return byte(content, 0), byte(follow(content, 1), 0)


@pytest.mark.parametrize("name", ["google_v3_small_qat_uint8.tflite", "v3_small_ptq_int8.tflite"])
def test_a_model_that_does_not_say_gives_none(name: str, data_pack: Path) -> None:
    assert read_metadata(data_pack / "peers" / name) is None


def test_labels_must_match_the_classes() -> None:
    with pytest.raises(ExportError, match="2 labels for 4 classes; give one label per class"):
        build_tflite(classifier(Metadata("net", PREPROCESSING, ("a", "b"))))


@pytest.mark.parametrize("label", ["two\nlines", "end\n", "carriage\rreturn"])
def test_a_label_of_two_lines_is_refused(label: str) -> None:
    with pytest.raises(ExportError, match=r"label 3 .* line break"):
        build_tflite(classifier(Metadata("net", PREPROCESSING, ("a", "b", "c", label))))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"PK\3\4 not a flatbuffer")

    with pytest.raises(ModelFileError, match=r"model\.tflite: not a TFLite model"):
        read_metadata(tmp_path / "model.tflite")


def test_lost_labels_are_named(tmp_path: Path) -> None:
    data = write(tmp_path / "model.tflite", Metadata("net", PREPROCESSING, LABELS))
    (tmp_path / "model.tflite").write_bytes(data[: data.index(b"PK\3\4")])

    with pytest.raises(ModelFileError, match=r"labels\.txt is missing or damaged; export it again"):
        read_metadata(tmp_path / "model.tflite")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_as_another_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = build_tflite(classifier(Metadata("net", PREPROCESSING, LABELS)))
    damaged = bytearray(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 9, len(whole) // 2, 6]))])
    # From the end, where the archive and the tables of the metadata are.
    positions = st.integers(1, 700) | st.integers(1, len(whole))
    for position in data.draw(st.lists(positions.filter(lambda p: p <= len(damaged)), max_size=8)):
        damaged[-position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.tflite"
    path.write_bytes(damaged)

    try:
        read_metadata(path)
    except ModelFileError as error:
        assert str(path) in str(error)
