#!/usr/bin/env python3
"""Writes seeds/TARGET/NAME: what each fuzz target begins with. Small files that are right, and such as have broken other
readers of the same formats."""

import gzip
import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).parent / "seeds"


def write(target, /, **seeds):
    directory = ROOT / target
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def csv():
    table = b"a,b,y\n1,2.5,0\n-3e2,+4,1\n"
    write(
        "csv",
        plain=b"\x00" + table,
        target=b"\x05" + b'"a","b ""c""",y,d\r\n1,"2",0,3\r\n',
        regression=b"\x01" + b"a,y\n1,.5\n2,1e-40\n",
        unlabelled=b"\x03" + b"a\n1\n",
        ignored=b"\x09" + b"a,y\n1,-1\n2,1\n",
        # Elsewhere: reads behind the end where a quote, or the last line, is not closed.
        open_quote=b"\x01" + b'a,"b\n1,2\n',
        open_field=b"\x01" + b'a,b\n1,"2',
        quote_at_end=b"\x01" + b'a,b\n1,"',
        header_quote_at_end=b"\x01" + b'a,"',
        no_line=b"\x01" + b"a,b",
        blanks=b"\x01" + b"\xef\xbb\xbf a\t, b\n\n \t\n1 ,\t2\n\r\n  \n",
        numbers=b"\x21" + b"a,y\n1e999,1\ninf,nan\n0x10,1e-999\n-,+-1\n",
        large_label=b"\x11" + b"a,y\n1,2147483647\n2,9e18\n",
        nul=b"\x01" + b"a,b\0\n1,2\0\n",
    )


def idx_images(n, height, width, data, magic=0x803):
    return struct.pack(">4I", magic, n, height, width) + data


def idx_labels(labels, n=None):
    return struct.pack(">2I", 0x801, len(labels) if n is None else n) + bytes(labels)


def idx():
    images = idx_images(2, 2, 1, bytes([0, 255, 7, 9]))
    write(
        "idx",
        plain=b"\x00" + images + b"--" + idx_labels([0, 1]),
        narrow=b"\x23" + images + b"--" + idx_labels([1, 1]),
        unlabelled=b"\x04" + images,
        # Products of extents that wrap around to 0 or to the number of bytes there are.
        wraps=b"\x01" + idx_images(1 << 31, 1 << 31, 4, b"abcd") + b"--" + idx_labels([0]),
        wraps_to_four=b"\x01" + idx_images(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, b"abcd") + b"--" + idx_labels([0]),
        other_type=b"\x00" + idx_images(2, 2, 1, b"abcd", 0xD03) + b"--" + idx_labels([0, 1]),
        more_labels=b"\x01" + images + b"--" + idx_labels([0, 1], 0xFFFFFFFF),
        more_bytes=b"\x01" + images + b"x--" + idx_labels([0, 1]) + b"x",
    )


def gz():
    table = b"a,b,y\n1,2,0\n3,4,1\n"
    stream = gzip.compress(table, mtime=0)
    images = idx_images(1, 2, 2, b"abcd")
    write(
        "gzip",
        table=b"\x0c" + stream,
        members=b"\x0d" + table + b"--" + b"5,6,1\n--",
        images=b"\x07" + images + b"--",
        padding=b"\x0d" + table + b"--" + bytes(16),
        # Elsewhere: what follows a stream, a second one that is damaged included, is passed over in silence.
        garbage=b"\x0d" + table + b"--" + b"garbage",
        garbage_stream=b"\x0c" + stream + b"garbage",
        second_damaged=b"\x0c" + stream + b"\x1e" + stream[1:],
        truncated=b"\x0c" + stream[:-5],
        header_alone=b"\x0c" + stream[:10],
        flags=b"\x0c" + stream[:3] + b"\x1f" + stream[4:],
        empty_member=b"\x0d" + b"--" + table + b"--",
        zstd=b"\x0c" + bytes.fromhex("28b52ffd") + b"\x20\x05\x29\0\0a,b\n1",
        skippable=b"\x0c" + bytes.fromhex("502a4d18") + b"\xff\xff\xff\xff",
    )


def toml():
    model = '[model]\ntype = "mlp"\nhidden = [8]\n[data]\ntrain = "d.h5"\n[optimizer]\ntype = "adamw"\nlearning_rate = 1e-3\n'
    write(
        "toml",
        plain='[run]\nname = "a"\nseed = 1\n[train]\nsteps = 3\n' + model,
        layers='[model]\ntype = "sequential"\n[[model.layers]]\ntype = "linear"\nunits = 3\n\n--set\nmodel.layers[1].type=relu',
        overrides=model + "\n--set\noptimizer.learning_rate=.5\nrun.name=x y\ntrain.steps=1_000\ndata.train={a=1}",
        lists=model + "\n--set\nx[0][0]=1\nx[0][1].y=2\nx[1]=[3]",
        # Elsewhere: recursion without an end over lists, inline tables and keys of many parts.
        nested_lists="a = " + "[" * 300 + "]" * 300,
        nested_tables="a = " + "{a=" * 300 + "1" + "}" * 300,
        keys=".".join(["a"] * 300) + " = 1",
        header="[" + ".".join(['"a"'] * 300) + "]",
        inline_keys="a = { " + ".".join(["'a'"] * 300) + " = 1 }",
        override_keys="\n--set\n" + ".".join(["a"] * 300) + "=1\n" + "a" + "[0]" * 300 + "=1",
        override_tables="\n--set\na=" + "[" * 300 + "\nb={" + ".".join(["a"] * 300) + "=1}",
        texts='a = """\n\\u00e9 \\\n  x"""\nb = \'\'\'\'\'\'\nc = "\\uD800"\n',
        numbers="a = -9223372036854775808\nb = 9223372036854775808\nc = 1e400\nd = nan\ne = 0x_1\nf = 1979-05-27T07:32:00Z\n",
        redefined="[a]\nb.c = 1\n[a.b]\nd = 2\n[[a]]\n",
        unended='a = "b\n[c\nd = [1,\n',
        bytes_of_others=b"\xff\xfe[\0r\0u\0n\0]\0",
    )


def seal(version, payload, arrays=(), table=512, block=1 << 20):
    head = b"\x89LOCKSTEP-SEAL\r\n" + struct.pack("<2Q", version, len(payload)) + bytes(16)
    head += struct.pack("<3Q", block, table, len(arrays)) + b"".join(struct.pack("<2q", *a) for a in arrays)
    return head.ljust(512, b"\0") + payload


def sealed():
    signature = b"\x89HDF\r\n\x1a\n"
    write(
        "sealed",
        whole=b"\x03" + seal(1, signature + b"state"),
        blocked=b"\x03" + seal(2, bytes(32), [(528, 8)]),
        plain=b"\x00" + signature + bytes(8),
        behind_block=b"\x00" + bytes(512) + signature,
        # Numbers whose sums leave 64 bits.
        far=b"\x03" + seal(2, bytes(32), [((1 << 63) - 1, (1 << 63) - 1)]),
        long=b"\x03" + seal(2, bytes(32), [(528, (1 << 63) - 1)]),
        before=b"\x03" + seal(2, bytes(32), [(-1, 8)]),
        overlapping=b"\x03" + seal(2, bytes(64), [(528, 8), (530, 8)], 544),
        many=b"\x03" + seal(2, bytes(32), [(528, 0)] * 16),
        too_many=b"\x03" + seal(2, bytes(32), [(528, 0)] * 17),
        far_table=b"\x03" + seal(2, bytes(32), [(528, 8)], (1 << 63) - 1),
        cut=b"\x01" + seal(1, signature)[:300],
    )


def checkpoint():
    # A flag, a number of steps, the steps (kind, path, name, what it takes), and steps of HDF5's own.
    write(
        "checkpoint",
        empty=b"\x01\x00",
        nothing=b"\x00\x00",
        array=b"\x01\x01" + bytes([5, 10, 0, 0, 2, 3, 0]),
        scalars=b"\x01\x03" + bytes([1, 13, 3, 7, 2, 13, 4, 9, 3, 14, 5, 4]) + b"adam",
        texts=b"\x01\x02" + bytes([4, 5, 0, 4]) + b"best" + bytes([4, 8, 0, 2]) + b"ab",
        # An order that is taken, one out of range.
        orders=b"\x01\x02" + bytes([5, 10, 0, 0, 1, 1, 0, 5, 11, 0, 0, 1, 1, 0]),
        order=b"\x01\x01" + bytes([5, 10, 0, 0, 1, 1, 200]),
        # Extents that nobody can count, types that are no numbers, groups that hold themselves.
        large=b"\x01\x00" + bytes([0x12, 10, 1, 55, 255]),
        larger=b"\x01\x00" + bytes([0x41, 10, 1, 55, 255, 255, 255, 255]),
        strange=b"\x01\x00" + bytes([0x12, 10, 1, 1, 2, 0x10, 13, 3, 6, 2, 0x82, 11, 1, 0]),
        cycle=b"\x01\x01" + bytes([0, 9, 0]) + bytes([0x03, 9, 0, 10, 0x04, 9, 0, 11, 0x05, 0, 0, 12]),
    )


def safetensors():
    def header(**tensors):
        return json.dumps({n: {"dtype": d, "shape": s, "data_offsets": o} for n, (d, s, o) in tensors.items()}).encode()

    def built(data, **tensors):
        return b"\x01" + header(**tensors) + b"\0" + data

    raw = header(w=("F32", [1], [0, 4]))
    write(
        "safetensors",
        plain=built(bytes(12), w=("F32", [2], [0, 8]), b=("BF16", [2, 1], [8, 12])),
        metadata=b"\x01" + b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}\0' + bytes(8),
        raw=b"\x00" + struct.pack("<Q", len(raw)) + raw + bytes(4),
        empty=b"\x01{}\0",
        half=built(bytes(2), w=("F16", [1], [0, 2])),
        nothing=built(b"", w=("I64", [0, 5], [0, 0])),
        # Elsewhere: each of these has been a read or a write out of bounds.
        length=b"\x00" + struct.pack("<Q", (1 << 64) - 5) + b"{}",
        length_signed=b"\x00" + struct.pack("<Q", 1 << 63) + b"{}",
        wraps=built(b"", w=("F32", [1 << 32, 1 << 32], [0, 0])),
        wraps_to_four=built(bytes(4), w=("U8", [(1 << 62) + 1, 4], [0, 4])),
        no_offsets=built(bytes(4), w=("F32", [1], [])),
        one_offset=built(bytes(4), w=("F32", [1], [4])),
        inverted=built(bytes(4), w=("F32", [1], [4, 0])),
        negative=built(bytes(4), w=("F32", [-1], [-4, 0])),
        far=built(bytes(4), w=("F32", [1], [(1 << 64) - 4, (1 << 64) - 1])),
        unknown_type=built(bytes(4), w=("F4", [1], [1 << 60, (1 << 60) + 4])),
        zero_by_extent=built(bytes(4), w=("F32", [0, 1 << 62, 1 << 62], [0, 0])),
        twice=b"\x01" + b'{"w":1,"w":2}\0',
        nested=b"\x01" + b'{"w":' + b"[" * 80 + b"]" * 80 + b"}\0",
        text=b"\x01" + b'{"\\ud800":{"dtype":"\xff","shape":[1e99],"data_offsets":[0.5,1]}}\0',
    )


def tokenizer():
    def tokenizer_json(vocab="@BYTES@", merges='["a b"]', **others):
        text = '{"model":{"type":"BPE","vocab":{%s},"merges":%s},"pre_tokenizer":' % (vocab, merges)
        text += others.pop("pre", '{"type":"ByteLevel","add_prefix_space":false}')
        for key, value in others.items():
            text += ',"%s":%s' % (key, value)
        return b"\x00" + (text + "}").encode()

    vocab = '@BYTES@,"ab":256,"abc":257'
    split = '{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"%s"},"behavior":"Isolated"},' \
            '{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}'
    header = lambda version, count, end: struct.pack("<4i", 20240328, version, count, end)
    write(
        "tokenizer",
        json=tokenizer_json(vocab, '["a b",["ab","c"]]') + b"----abc ab\xff",
        added=tokenizer_json(vocab, added_tokens='[{"id":258,"content":"<s>","special":true}]', normalizer='{"type":"NFKC"}',
                             post_processor='{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}]}') + b"----<s>a",
        split=tokenizer_json(vocab, pre=split % "\\\\p{L}+|\\\\s+(?!\\\\S)") + b"----ab  c",
        # Patterns that take a time without an end, or nest; ids without tokens; merges of none.
        pattern=tokenizer_json(vocab, pre=split % "(a+)+$") + b"----" + b"a" * 40 + b"b",
        pattern_nested=tokenizer_json(vocab, pre=split % ("(" * 300 + ")" * 300)),
        pattern_empty=tokenizer_json(vocab, pre=split % "(?=a)\\\\K|") + b"----aa",
        no_token=tokenizer_json(vocab, '["x y"]'),
        far_id=tokenizer_json('@BYTES@,"ab":67108863', '["a b"]'),
        wrong_id=tokenizer_json('@BYTES@,"ab":18446744073709551615,"c":1e9'),
        no_bytes=tokenizer_json('"a":0'),
        tiktoken=b"\x01@BYTES@YWI= 256\nYWJj 257\n----abc",
        tiktoken_far=b"\x01@BYTES@YWI= 67108863\n",
        tiktoken_rank=b"\x01@BYTES@YWI= 2147483648\nYWI -1\n",
        tiktoken_base64=b"\x01YQ== 0\n==== 1\nYQ=a 2\n 3\n",
        gpt2=b"\x02#version: 0.2\na b\nab c\n--{@BYTES@,\"ab\":256,\"abc\":257,\"<|endoftext|>\":258}--abc",
        gpt2_merge=b"\x02#version: 0.2\na  b\n \n--{@BYTES@}",
        llmc=b"\x03" + header(2, 2, 1) + b"\x01a\x02bc",
        llmc_old=b"\x03" + header(1, 1, 0) + b"\x01a",
        llmc_count=b"\x03" + header(2, 2147483647, 0) + b"\xffa",
        llmc_end=b"\x03" + header(2, 1, -1) + b"\x00",
    )


def tokens():
    def llmc(magic, version, count, data):
        return struct.pack("<3i", magic, version, count).ljust(1024, b"\0") + data

    def index(version, code, lengths, offsets, documents, sequences=None, entries=None):
        head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", version, code, len(lengths) if sequences is None else sequences,
                                             len(documents) if entries is None else entries)
        return head + b"".join(struct.pack("<i", x) for x in lengths) + struct.pack(
            "<%dq" % (len(offsets) + len(documents)), *offsets, *documents)

    data = bytes(range(12))
    write(
        "tokens",
        llmc=llmc(20240520, 1, 3, bytes(6)),
        llama=llmc(20240801, 7, 2, bytes(8)),
        llmc_count=llmc(20240520, 1, -1, bytes(6)),
        llmc_negative=llmc(20240801, 7, 1, b"\xff" * 4),
        llmc_cut=llmc(20240520, 1, 3, bytes(6))[:700],
        megatron=data + b"--" + index(1, 8, [2, 4], [0, 4], [0, 1, 2]),
        megatron_int64=data[:8] + b"--" + index(1, 5, [1], [0], [0, 1]),
        # Types that are none, lengths below 0, offsets and documents outside, counts whose products wrap.
        type=data + b"--" + index(1, 0, [2, 4], [0, 4], [0, 1, 2]),
        real_type=data + b"--" + index(1, 6, [2, 4], [0, 4], [0, 1, 2]),
        negative=data + b"--" + index(1, 8, [-2, 8], [0, -4], [0, -1, 2]),
        outside=data + b"--" + index(1, 8, [2, 4, 0], [0, 1 << 62, 12], [0, 1, 7, 3]),
        odd=data + b"--" + index(1, 4, [2, 4, 1], [0, 3, 8], [0, 1, 3]),
        counts=data + b"--" + index(1, 8, [2], [0], [0, 1], (1 << 64) - 1, (1 << 63) + 1),
        products=data + b"--" + index(1, 8, [2], [0], [0, 1], (1 << 64) // 12 + 1, 2),
        version=data + b"--" + index(2, 8, [6], [0], [0, 1]),
        cut=data + b"--" + index(1, 8, [6], [0], [0, 1])[:30],
    )


for make in (csv, idx, gz, toml, sealed, checkpoint, safetensors, tokenizer, tokens):
    make()
