import gzip

import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import read_steps

HEADER = "gpu,model,batch_size,total_tokens,latency_ms\n"
ROW = "g,m,4,8,10.0\n"


def csv_file(tmp_path, text, name="steps.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_other_columns_and_a_byte_order_mark_do_not_matter(tmp_path):
    path = csv_file(tmp_path, "\ufeff" + HEADER.replace("\n", ",note\r\n") + "g,m,4,8,10.0,x\r\n")
    assert read_steps(path).latency_ms.tolist() == [10.0]


def test_a_column_map_with_units(tmp_path):
    path = csv_file(tmp_path, "model,n,S,step_time,when\nm,4,8,0.01,5000\n")
    steps = read_steps(
        path,
        gpu="g",
        columns={
            "batch_size": "n",
            "total_tokens": "S",
            "latency_ms": "step_time [s]",
            "timestamp": "when [ms]",
        },
    )
    assert steps.latency_ms.tolist() == [10.0]
    assert steps.timestamp.tolist() == [5.0]


def test_text_in_a_number_column_names_the_line(tmp_path):
    path = csv_file(tmp_path, HEADER + ROW + "g,m,4,8,fast\n" + ROW)
    quarantine = read_steps(path).quarantine
    assert quarantine.counts == {"not a number in latency_ms": 1}
    assert quarantine.rows[["row", "latency_ms"]].values.tolist() == [[3, "fast"]]


def test_text_deep_in_a_mapped_column_names_the_line(tmp_path):
    text = HEADER.replace("latency_ms", "t") + ROW * 200_000 + "g,m,4,8,fast\n" + ROW
    path = csv_file(tmp_path, text)
    steps = read_steps(path, columns={"latency_ms": "t [us]"})
    assert steps.quarantine.rows["row"].tolist() == [200_002]
    assert len(steps) == 200_001
    assert steps.latency_ms[0] == pytest.approx(0.01)


def test_lines_with_too_few_fields_and_blank_lines_keep_the_line_numbers_right(tmp_path):
    path = csv_file(tmp_path, HEADER + ROW + "\ng,m,4\n" + ROW + "g,m,4,8,-1\n\n")
    steps = read_steps(path)
    assert len(steps) == 2
    assert steps.quarantine.counts == {
        "wrong number of fields in the line": 1,
        "latency_ms not positive": 1,
    }
    assert steps.quarantine.rows["row"].tolist() == [4, 6]
    assert steps.quarantine.dropped == {"blank line": 2}


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = csv_file(tmp_path, HEADER.replace("\n", ",gpu\n") + "g,m,4,8,10.0,g\n")
    with pytest.raises(InputError, match="more than once"):
        read_steps(path)


def test_a_misspelt_column_is_said(tmp_path):
    path = csv_file(tmp_path, HEADER.replace("\n", ",Context Tokens\n") + "g,m,4,8,10.0,7\n")
    assert "if it is context_tokens, map it" in read_steps(path).quarantine.warnings[0]


def test_dates_in_a_csv_are_read(tmp_path):
    text = HEADER.replace("\n", ",timestamp\n") + "g,m,4,8,10.0,1970-01-01T00:00:07Z\n"
    assert read_steps(csv_file(tmp_path, text)).timestamp.tolist() == [7.0]


@pytest.mark.parametrize("newline", ["\n", ""])
def test_a_header_alone_has_no_good_row(tmp_path, newline):
    with pytest.raises(InputError, match=r"0 rows read|no comma-separated"):
        read_steps(csv_file(tmp_path, HEADER.strip() + newline))


def test_the_caller_may_not_contradict_the_file(tmp_path):
    path = csv_file(tmp_path, HEADER + ROW)
    assert len(read_steps(path, gpu="g")) == 1
    with pytest.raises(InputError, match=r"gpu='other' .* itself says gpu = "):
        read_steps(path, gpu="other")


def test_json_lines_may_differ_in_their_keys(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(
        '{"gpu": "g", "model": "m", "batch_size": 4, "total_tokens": 8, "latency_ms": 10}\n'
        "\n"
        '{"gpu": "g", "model": "m", "batch_size": 4, "total_tokens": 8, "latency_ms": 9, "tp": 2}\n'
        '{"gpu": "g", "model": "m", "batch_size": [4], "total_tokens": 8, "latency_ms": 11}\n'
        '{"gpu": "g", "model": "m", "batch_size": 4, "tot\n'
        "[1, 2]\n"
    )
    with path.open("ab") as stream:
        stream.write(b'{"gpu": "\xff"}\n')
    steps = read_steps(path)
    assert [d.tp for d in steps.deployments] == [1, 2]
    rows = steps.quarantine.rows.set_index("reason")["row"].to_dict()
    assert rows == {
        "malformed JSON": 5,
        "not a JSON object": 6,
        "not UTF-8 text": 7,
        "not a number in batch_size": 4,
    }


def test_json_without_one_object_is_an_error(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(gzip.compress(b"{nothing\n"))
    with pytest.raises(InputError, match="line 1: malformed JSON"):
        read_steps(path)


def test_parquet_columns_of_any_number_type(tmp_path):
    path = tmp_path / "steps.parquet"
    frame = pd.DataFrame(
        {
            "gpu": pd.Categorical(["g"]),
            "model": ["m"],
            "batch_size": pd.array([4], dtype="Int16"),
            "total_tokens": pd.array([8], dtype="uint8"),
            "latency_ms": pd.array([10.0], dtype="float32"),
            "unused": [["a", "b"]],
        },
        index=pd.Index([7], name="step"),
    )
    frame.to_parquet(path)
    assert read_steps(path).latency_ms.tolist() == [10.0]


def test_old_line_ends_are_read(tmp_path):
    path = csv_file(tmp_path, (HEADER + ROW + ROW).replace("\n", "\r"))
    assert len(read_steps(path)) == 2


def test_an_endless_field_is_no_table(tmp_path):
    with pytest.raises(InputError, match="no comma-separated table"):
        read_steps(csv_file(tmp_path, "x" * 300_000 + ",gpu\n1,2\n"))
    with pytest.raises(InputError, match="no comma-separated table"):
        read_steps(csv_file(tmp_path, HEADER + "g" * 3_000_000 + ",m,4,8,10.0\n"))


def test_an_object_is_no_name(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(
        '{"gpu": "g", "model": "m", "batch_size": 4, "total_tokens": 8, "latency_ms": 10}\n'
        '{"gpu": {"n": 1}, "model": "m", "batch_size": 4, "total_tokens": 8, "latency_ms": 9}\n'
    )
    assert read_steps(path).quarantine.counts == {"blank gpu": 1}
