"""`benchmarks/bench.py`: what is measured and how it is written down. No test asserts a time."""

import dataclasses
import importlib
import math
import sys
from pathlib import Path

import bench
import msgspec
import pytest
import torch
from suite import calls, gradients, memory, passes, roofline, sampling, scaling, timing
from suite.handwritten import (
    MultinomialSAP,
    gradient_by_loop,
    multinomial_network,
    prune_by_multinomial,
    prune_by_search,
)
from suite.kernels import prune_independently
from suite.networks import BY_HAND, DEFENSES, DENSE, network, sample_images
from suite.page import render
from suite.plan import RELU, Plan
from suite.results import Fit, Part, Record, Results, read_results
from suite.roofline import BANDWIDTH, EXPONENTIALS, FLOPS, NEEDS, WORDS
from suite.run import SECTIONS, run
from suite.scaling import fit_power
from suite.tables import BEGIN, END, compare, number, put_between, tables, to_markdown
from suite.timing import Spread, Times, time_in_turn

from saplab.rng.streams import pass_streams, stream_key

TINY = dataclasses.replace(
    Plan.quick(threads=1), maps=((RELU, 4, 256),), rounds=2, images=2, pass_rounds=2, gradient_images=2,
    gradient_samples=2, gradient_rounds=2, scaling_rounds=2, scaling_images=2, scaling_rows=2, ceiling_bytes=1 << 17,
    grows={"images": (1, 2, 4), "samples": (1, 2, 4), "activations": (128, 256, 512), "percent": (50, 100, 200)},
)  # fmt: skip
ABSENT = dict.fromkeys(gradients.MODULES, "no_such_library")


@pytest.fixture(scope="module")
def results():
    """Return what a tiny run finds, without other libraries and with made-up memory."""
    weights = {DENSE: 200, "sap:100": 260, BY_HAND: 900}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_WARM_UP", 0.0)
        patch.setattr(roofline, "_REPEATS", 1)
        patch.setattr(gradients, "MODULES", ABSENT)
        patch.setattr(memory, "rise_in_a_process", lambda name, plan: weights[name])
        return run(TINY, SECTIONS, lambda known: None)


# Timing


def test_spread_has_the_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(median=3.0, low=2.0, high=4.0, best=1.0, rounds=5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="`values` must hold at least one round, got none"):
        Spread.of([])


def test_an_inverse_swaps_the_quartiles():
    assert Spread(4.0, 2.0, 8.0, 1.0, 3).inverse(8.0) == Spread(2.0, 1.0, 4.0, 8.0, 3)


def test_ratios_are_taken_round_by_round():
    mine, theirs = Times([2.0, 40.0, 6.0]), Times([1.0, 10.0, 2.0])
    assert mine.ratio(theirs).median == 3.0  # of 2, 4, 3; the ratio of the medians is 3 too
    assert mine.ratio(Times([1.0])) == Spread.of([2.0])
    assert mine.scaled(0.5).wall == [1.0, 20.0, 3.0]


def test_works_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "_WARM_UP", 0.0)
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = time_in_turn(works, {"a": 3, "b": 2})
    assert "".join(calls) == "aabb" + "aabb" + "aa"  # one call to warm up, one that counts
    assert [len(times[name].wall) for name in "ab"] == [3, 2]


# What others would write


def flat(law, rows=4000, a=128):
    return sampling.maps(law, 1, a).expand(rows, -1).contiguous()


@pytest.mark.parametrize(
    "prune",
    [
        lambda h, r: prune_by_multinomial(h, r, torch.Generator().manual_seed(1)),
        lambda h, r: prune_by_search(h, r, torch.Generator().manual_seed(1)),
        lambda h, r: prune_independently(h, pass_streams(stream_key(0), 0, torch.arange(len(h))), r),
    ],
    ids=["multinomial", "search", "independent"],
)
def test_contenders_keep_with_algorithm_1_s_probability(prune):
    h = flat(RELU)
    out = prune(h, 64)
    p = (h[0] / h[0].sum()).double()
    inclusion = 1 - (1 - p) ** 64
    kept = out != 0
    error = (inclusion * (1 - inclusion) / len(h)).sqrt().clamp(min=1e-12)
    assert ((kept.double().mean(0) - inclusion).abs() / error).max() < 5  # standard errors, of 128 activations
    torch.testing.assert_close(out[kept].double(), (h / inclusion)[kept], rtol=1e-5, atol=0)


def test_the_hand_written_network_prunes_every_relu():
    dense = network(DENSE)
    model = multinomial_network(dense)
    count = [sum(isinstance(module, kind) for module in net.modules())
             for net, kind in ((dense, torch.nn.ReLU), (model, MultinomialSAP))]  # fmt: skip
    assert count == [19, 19]
    images, labels = sample_images(2)
    assert not torch.equal(model(images), model(images))
    assert gradient_by_loop(model, images, labels, 2).abs().sum() > 0


def test_the_loop_averages():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    one = passes.gradient_pass(net, images, labels)
    torch.testing.assert_close(gradient_by_loop(net, images, labels, 3), one)
    torch.testing.assert_close(passes.attack_pass(net.eval(), images, labels), one)


def test_sample_images_repeat():
    images, labels = sample_images(1003)
    assert torch.equal(images[1000:], images[:3])
    assert labels[1000:].tolist() == labels[:3].tolist()


# Fits


def test_the_fit_finds_a_power():
    fit = fit_power("samples", [1, 2, 4, 8], [3 * n**1.5 for n in (1, 2, 4, 8)], expected=1.0)
    assert fit.exponent == pytest.approx(1.5)
    assert fit.constant == pytest.approx(3.0)
    assert fit.error == pytest.approx(0.0, abs=1e-6)
    assert fit.deviation == pytest.approx(0.0, abs=1e-9)


def test_the_fit_knows_its_error():
    """The points (0, 0), (1, 1), (2, 1): slope 1/2, residuals -1/6, 1/3, -1/6, standard error √(1/12), t = 12.706."""
    fit = fit_power("x", [math.exp(x) for x in (0, 1, 2)], [math.exp(y) for y in (0, 1, 1)], expected=1.0)
    assert fit.exponent == pytest.approx(0.5)
    assert fit.error == pytest.approx(12.7062 * math.sqrt(1 / 12), rel=1e-5)
    assert fit.deviation == pytest.approx(math.exp(1 / 3) - 1)


def test_two_sizes_have_no_error_and_one_no_fit():
    assert fit_power("threads", [1, 2], [4.0, 2.0], -1.0).exponent == pytest.approx(-1.0)
    assert fit_power("threads", [1, 2], [4.0, 2.0], -1.0).error is None
    with pytest.raises(ValueError, match=r"`sizes` must hold two different ones or more, got \[3, 3\]"):
        fit_power("threads", [3, 3], [1.0, 2.0], -1.0)


def test_threads_are_doubled():
    assert [scaling._doubled(n) for n in (1, 2, 6)] == [[1], [1, 2], [1, 2, 4, 6]]


# Roofline


def test_needs_are_those_counted_by_hand():
    """Per activation: what is read and written once; a sum, rate, p, series of 9, uniform and quotient; a product."""
    found = {name: (need.bytes, need.words, need.exponentials, need.flops) for name, need in NEEDS.items()}
    assert found == {
        roofline.COPY: (8, 0, 0, 0),
        roofline.BERNOULLI: (8, 1, 1, 14),
        roofline.PRUNE: (8, 1, 1, 14),
        roofline.PRUNE_LOW: (4, 1, 1, 14),
        roofline.MASK: (16, 0, 0, 2),
        roofline.MASK_LOW: (8, 0, 0, 2),
    }


def test_kernels_of_the_roofline_do_their_work():
    h = sampling.maps(RELU, 4, 256)
    full, low = roofline.Buffers.of(h), roofline.Buffers.of(h.bfloat16())
    works = roofline.kernels(full, low)
    assert list(works) == [name for name in NEEDS if name != roofline.COPY]
    works[roofline.BERNOULLI]()
    keys = pass_streams(stream_key(0), 0, torch.arange(4))
    assert torch.equal(torch.from_numpy(full.out), prune_independently(h, keys, 256))
    works[roofline.PRUNE]()
    pruned = sampling.pruning(h, 256)()
    assert torch.equal(torch.from_numpy(full.out), pruned)
    works[roofline.MASK]()  # of the gradient h: h · out / h
    torch.testing.assert_close(torch.from_numpy(full.result), pruned)
    works[roofline.PRUNE_LOW]()
    bits = torch.from_numpy(low.out.view("int16")).view(torch.bfloat16)
    assert torch.equal(bits, sampling.pruning(h.bfloat16(), 256)())
    works[roofline.MASK_LOW]()
    assert ((low.result != 0) == (low.out != 0)).all()


def test_the_least_time_is_memory_s_or_arithmetic_s():
    ceilings = {BANDWIDTH: 4.0, FLOPS: 2.0, WORDS: 1.0, EXPONENTIALS: 0.5}
    assert NEEDS[roofline.PRUNE].least(ceilings) == (8 / 4, 1 / 1 + 1 / 0.5 + 14 / 2)
    assert NEEDS[roofline.MASK].least({BANDWIDTH: 4.0}) == (4.0, None)


# A run


def test_a_run_has_every_contender(results):
    names = {section: [record.name for record in results.section(section)] for section in SECTIONS}
    assert names["sampler"] == [sampling.OURS, sampling.BERNOULLI, sampling.MULTINOMIAL, sampling.SEARCH, sampling.COPY]
    every = [DENSE, *DEFENSES]
    assert names["pass"] == 2 * [*every, BY_HAND] + every
    assert names["calls"] == [calls.BARE, "sap:100", "dropout:0.1", calls.KERNEL]
    assert names["gradients"] == [gradients.OURS, gradients.ALONE, gradients.LOOP, gradients.LOOP]
    assert names["memory"] == [DENSE, "sap:100", BY_HAND]
    assert names["roofline"] == list(NEEDS)
    assert [fit.case for fit in results.fits] == ["images", "samples", "activations", "percent", "percent of a pass"]
    assert [r.size for r in results.section("scaling") if r.case == "percent"] == [50, 100, 200]
    assert [fit.expected for fit in results.fits] == [1, 1, 1, 0, 0]


def test_a_run_says_who_is_left_out(results):
    assert len([text for text in results.left_out if "no_such_library is not installed (extra `peers`)" in text]) == 3
    assert "scaling: threads, as there is only one" in results.left_out


def test_a_run_s_numbers_are_numbers(results):
    assert all(0 < r.value.best <= r.value.low <= r.value.median <= r.value.high for r in results.records)
    references = [r for r in results.records if r.section == "pass" and r.name == DENSE]
    assert all(r.ratio == Spread(1.0, 1.0, 1.0, 1.0, 2) for r in references)
    assert [r.ratio.median for r in results.section("memory")] == [1.0, 1.3, 4.5]
    assert set(results.ceilings) == {BANDWIDTH, FLOPS, WORDS, EXPONENTIALS}
    for r in results.section("roofline"):
        assert r.details["least"] == max(r.details["memory"], r.details["arithmetic"])
    assert results.machine["threads"] == 1
    assert {"load", "load_after", "seconds", "commit"} <= set(results.machine)


@pytest.fixture
def stored(results, tmp_path):
    path = tmp_path / "old.json"
    path.write_bytes(results.to_json())
    return path


def test_results_survive_their_file(results, stored):
    again = read_results(stored)
    assert dataclasses.replace(again, options={}) == dataclasses.replace(results, options={})
    assert again.options["grows"]["samples"] == [1, 2, 4]


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"format": 1, "machine": {}}', '{"format": 99, "machine": {}, "options": {}}']
)
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json holds no results of benchmarks/bench\.py"):
        read_results(path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak memory of a process")
def test_memory_is_measured_in_a_process_of_its_own():
    risen = memory.rise_in_a_process("dense", dataclasses.replace(TINY, images=32))
    assert 32 * 16 * 32 * 32 * 4 < risen < 2**30  # at least one map of the first stage


# Tables, page, comparison


def test_numbers_have_three_digits():
    texts = [number(x) for x in (0, 0.01234, 1.5, 12.34, 99.97, 123.4, 12345.6)]
    assert texts == ["0", "0.0123", "1.50", "12.3", "100", "123", "12,346"]


def test_tables_hold_the_numbers():
    half, two = Spread(0.5, 0.25, 1.0, 0.2, 3), Spread(2.0, 1.0, 4.0, 0.8, 3)
    need = {"bytes": 8, "words": 1, "exponentials": 1, "flops": 14, "memory": 0.3, "arithmetic": 0.44}
    records = (
        Record("sampler", "maps", "copy", "ns per activation", two, half, "saplab", 3.0),
        Record("gradients", "SAP", "loop", "ms per example", two, half, "saplab", 3.0),
        Record("scaling", "images", "16", "ms", two, size=16),
        Record("scaling", "images", "32", "ms", half, size=32),
        Record("memory", "512 images", "dense", "MB", Spread.of([909.0]), Spread.of([1.0])),
        Record("roofline", "kernels", "saplab", "ns per activation", two, half, details=need),
    )
    found = tables(Results({}, {}, records, (Fit("images", 0.9, 0.1, 1.0, 3.0, 0.25),), {"copy, GB/s": 26.7}))
    assert [table.rows for table in found] == [
        (("copy", "2.00 [1.00, 4.00]", "3.00", "0.500 [0.250, 1.00] ×"),),
        (("loop, SAP", "500 [250, 1,000]", "0.500 [0.250, 1.00] ×"),),
        (("images", "16 to 32", "2.00 to 0.500", "0.90 ± 0.10", "1", "25 %"),),
        (("dense", "909", "1.00 ×"),),
        (("saplab", "8 bytes, 1 word, 1 exponential, 14 flops", "0.300", "0.440", "2.00 [1.00, 4.00]", "500 %"),),
        (("copy", "26.7 GB/s"),),
    ]


def test_markdown_has_every_table(results):
    text = to_markdown(results)
    assert text.count("\n### ") == len(tables(results)) == 1 + 3 + 1 + 1 + 1 + 1 + 2
    assert "| torch.multinomial + scatter |" in text
    assert "Left out: " in text
    assert results.machine["processor"] in text


def test_a_page_is_rewritten_between_its_marks():
    page = f"By hand.\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n"
    assert put_between(page, BEGIN, END, "new\n") == page.replace("old", "new")
    for wrong in (f"{END}\n{BEGIN}\n", BEGIN, ""):
        with pytest.raises(ValueError, match="the page must hold the lines"):
            put_between(wrong, BEGIN, END, "new\n")


def test_the_page_is_whole_and_escaped(results):
    evil = "<script>alert(1)</script>"
    first, *others = results.records
    page = render(
        dataclasses.replace(results, records=(dataclasses.replace(first, name=evil), *others), left_out=(evil,))
    )
    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for section in SECTIONS:
        assert f'id="chart-{section}"' in page
        assert f'"{section}": {{"$schema"' in page
    assert "default-src 'none'" in page


def altered(results, factor, **machine):
    def slower(record):
        value = Spread(*(factor * x for x in dataclasses.astuple(record.value)[:4]), rounds=2)
        return dataclasses.replace(record, value=value)

    return dataclasses.replace(
        results, records=tuple(map(slower, results.records)), machine={**results.machine, **machine}
    )


def test_compare_gives_ratios(results):
    table = compare(altered(results, 100.0, threads=64), results)
    assert len(table.rows) == len(results.records)
    assert {row[4:] for row in table.rows} == {("100.00 ×", "more, beyond the quartiles")}
    assert table.note == "The machines differ: threads."
    assert {row[5] for row in compare(altered(results, 0.01), results).rows} == {"less, beyond the quartiles"}
    assert {row[4:] for row in compare(results, results).rows} == {("1.00 ×", "")}


def test_compare_needs_something_in_common(results):
    with pytest.raises(ValueError, match="`compare`: the two runs have no measurement in common"):
        compare(results, dataclasses.replace(results, records=()))


# The command


def command(*words):
    bench.main([*map(str, words)])


def test_stored_results_are_shown_compared_and_written(stored, tmp_path, capsys, results):
    out, page = tmp_path / "out", tmp_path / "performance.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    command("--from", stored, "--compare", stored, "--out", out, "--markdown", page, "--json")
    shown = capsys.readouterr()
    assert msgspec.json.decode(shown.out, type=Results).records == results.records
    assert "New against old" in shown.err
    assert {path.name for path in out.iterdir()} == {"results.json", "report.html", "tables.md"}
    assert (out / "tables.md").read_text() in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--only", "speed"],
            "must name some of sampler, pass, calls, gradients, scaling, memory, roofline, got speed",
        ),
        (["--device", "tpu"], "'tpu'"),
        (["--device", "cuda"], "`--device` is cuda, but PyTorch finds no GPU here"),
        (["--from", "no/such.json"], "No such file or directory: 'no/such.json'"),
        (["--threads", "0"], "must be at least 1, got 0"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        command(*words)
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert message in shown.err.splitlines()[-1]


def test_the_command_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "quick", lambda device, threads: dataclasses.replace(TINY, threads=threads))
    command("--only", "sampler", "--quick", "--threads", 1, "--out", tmp_path)
    assert "independent Bernoulli" in capsys.readouterr().out
    assert {record.section for record in read_results(tmp_path / "results.json").records} == {"sampler"}


def test_an_interrupted_run_keeps_its_finished_sections(tmp_path, monkeypatch):
    def interrupted(plan):
        raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "quick", lambda device, threads: dataclasses.replace(TINY, threads=threads))
    monkeypatch.setitem(SECTIONS, "pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command("--only", "pass,sampler", "--quick", "--threads", 1, "--out", tmp_path)
    assert {record.section for record in read_results(tmp_path / "results.json").records} == {"sampler"}


def test_sections_follow_one_another_on_the_plan_s_threads(monkeypatch):
    found = []
    for name in ("roofline", "sampler"):
        monkeypatch.setitem(
            SECTIONS, name, lambda plan, name=name: found.append((name, torch.get_num_threads())) or Part(())
        )
    before = torch.get_num_threads()
    run(Plan(threads=before + 1), ("roofline", "sampler"), lambda known: None)
    assert found == [("sampler", before + 1), ("roofline", before + 1)]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("script", sorted(path.stem for path in Path(bench.__file__).parent.glob("*.py")))
def test_every_script_finds_what_it_imports(script):
    for package in {"gpu": ["triton"], "agents": ["ale_py", "gymnasium"]}.get(script, []):
        pytest.importorskip(package)
    importlib.import_module(script)
