"""Tests of the scripts for a machine with a GPU; no GPU, no mixce and no PyTorch: `python3 -m unittest discover scripts/gpu`."""

import importlib.util
import io
import json
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import kernels  # noqa: E402
import run  # noqa: E402
from determinism import Determinism, digest, largest_difference, samples_that_differ  # noqa: E402
from inputs import Inputs, documents  # noqa: E402
from pytorch import PyTorch  # noqa: E402
from rows import MORE, SMOLLM2, Rows, Sample, Train  # noqa: E402
from session import Session, objects, reason  # noqa: E402

spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "scripts" / "gpu-report.py")
gpu_report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_report)


class InFolder(unittest.TestCase):
    """Each test in a folder of its own, in silence."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        silence = redirect_stdout(io.StringIO())
        silence.__enter__()
        self.addCleanup(silence.__exit__, None, None, None)

    def session(self, budget_s=60):
        session = Session(self.folder / "out", budget_s)
        self.addCleanup(lambda: [file.close() for file in session.files.values()])
        return session

    def entries(self):
        return objects((self.folder / "out" / "report.jsonl").read_text())


class Steps(InFolder):
    def test_each_ending_has_its_verdict_and_reason(self):
        session = self.session()
        for name, script, may_refuse in [
            ("well", "echo words; echo '{\"a\":1}'", False),
            ("badly", "echo 'error: what' >&2; echo 'hint: how' >&2; exit 2", False),
            ("refused", "echo 'error: no kernel' >&2; exit 2", True),
            ("crash", "kill -11 $$", True),
            ("sanitizer", "echo '========= ERROR SUMMARY: 3 errors'; exit 99", False),
            ("long", "sleep 60", False),
        ]:
            session.run(name, ["bash", "-c", script], 1, may_refuse=may_refuse)
        session.run("missing", [str(self.folder / "no-such-program")], 1)
        entries = {entry["step"]: entry for entry in self.entries()}
        verdicts = {step: entry["verdict"] for step, entry in entries.items()}
        self.assertEqual(
            verdicts,
            {
                "well": "ok",
                "badly": "failed",
                "refused": "refused",
                "crash": "failed",
                "sanitizer": "failed",
                "long": "timeout",
                "missing": "failed",
            },
        )
        self.assertEqual(entries["well"]["result"], {"a": 1})
        self.assertEqual(entries["badly"]["why"], "error: what; hint: how")
        self.assertIn("ERROR SUMMARY: 3 errors", entries["sanitizer"]["why"])
        self.assertIn("no-such-program", entries["missing"]["why"])

    def test_a_step_past_its_limit_is_ended_with_what_it_started(self):
        session, marker = self.session(), self.folder / "marker"
        started_at = time.monotonic()
        session.run("long", ["bash", "-c", f"(sleep 1.2; touch {marker}) & wait"], 0.3)
        self.assertLess(time.monotonic() - started_at, 1.2)
        time.sleep(1.2)
        self.assertFalse(marker.exists())

    def test_an_objection_fails_a_command_that_ended_well(self):
        self.session().run(
            "parity", ["echo", '{"not_checked":["all"]}'], 5, objection=lambda result: f"not checked: {result['not_checked']}"
        )
        self.assertEqual([(e["verdict"], e["why"]) for e in self.entries()], [("failed", "not checked: ['all']")])

    def test_without_time_steps_are_skipped_and_their_group_is_named(self):
        session = self.session(budget_s=1)
        session.begin("training")
        session.run("late", ["true"], 5)
        self.assertEqual([(e["verdict"], e["why"]) for e in self.entries()], [("skipped", "no time left")])
        self.assertEqual(session.not_reached, ["training"])

    def test_reasons_are_one_line(self):
        self.assertEqual(reason("a\nb\nc\n\nd\n"), "b; c; d")
        self.assertEqual(reason("noise\nerror: x\nmore\n"), "error: x")


class Yardstick(InFolder):
    """PyTorch's process, with a script in its place."""

    def pytorch(self, script):
        (self.folder / "pytorch_rows.py").write_text(script)
        pytorch = PyTorch(self.session(), self.folder, cuda=True)
        self.addCleanup(pytorch.close)
        return pytorch

    def test_a_row_that_fails_or_hangs_costs_itself_alone(self):
        pytorch = self.pytorch(
            "import json, sys, time\n"
            "print(json.dumps({'torch': '9', 'gpu': 'G'}), flush=True)\n"
            "for line in sys.stdin:\n"
            "    script, *rest = json.loads(line)\n"
            "    if script == 'hangs': time.sleep(60)\n"
            "    if script == 'dies': sys.exit(3)\n"
            "    print(json.dumps({'error': 'E'} if script == 'fails' else {'arguments': rest}), flush=True)\n"
        )
        results = [
            pytorch.row(name, name, [1], 5 if name != "hangs" else 1) for name in ("well", "fails", "hangs", "dies", "again")
        ]
        self.assertEqual(results, [{"arguments": ["1"]}, None, None, None, {"arguments": ["1"]}])
        self.assertEqual([entry["verdict"] for entry in self.entries()], ["ok", "failed", "timeout", "failed", "ok"])

    def test_pytorch_without_a_gpu_is_said_once_and_rows_are_skipped(self):
        pytorch = self.pytorch('print(\'{"torch": "9", "gpu": null}\', flush=True)\ninput()\n')
        self.assertIsNone(pytorch.row("row", "train", [], 5, side="pytorch"))
        self.assertEqual([(e["verdict"], e["why"]) for e in self.entries()], [("skipped", "PyTorch 9 sees no GPU")])


class Commands(InFolder):
    def test_documents_are_the_same_again_and_no_two_seeds_agree(self):
        self.assertEqual(documents(5, 1), documents(5, 1))
        self.assertNotEqual(documents(5, 1), documents(5, 2))

    def test_rows_ask_both_sides_for_the_same_shape(self):
        rows = Rows(None, "mixce", None, ROOT / "scripts" / "bench", "cuda")
        row, model = rows.sized(Train("gpt2-large", 8, 1024, "bf16", steps=5))
        words = [str(word) for word in rows.common(row, model)]
        self.assertEqual(words, "--model-config gpt2-large --batch-size 8 --steps 5 --warmup 3 --seq-len 1024".split())
        self.assertTrue(rows.sized(Train(SMOLLM2, 8, 512, "f32"))[1].exists())

    def test_refusals_are_expected_of_what_is_new_only(self):
        rows = Rows(None, "mixce", None, ROOT, "cuda")
        refusable = [
            rows.may_refuse(row)
            for row in (Train("gpt2", 1, 1, "bf16"), Sample("gpt2", 1, "bf16"), MORE[0], Train(SMOLLM2, 1, 1, "f32"))
        ]
        self.assertEqual(refusable, [False, False, True, True])

    def test_every_group_has_a_method_and_a_line_in_the_readme(self):
        readme = (HERE / "README.md").read_text()
        groups = [
            line.split("`")[1] for line in readme.splitlines() if line.startswith("| `") and line.split("`")[1] in run.GROUPS
        ]
        self.assertEqual(groups, run.GROUPS)
        for name in run.GROUPS:
            self.assertTrue(callable(getattr(run.Run, f"group_{name}")), name)


class Numbers(InFolder):
    def test_runs_that_differ_fail(self):
        inputs = self.folder / "inputs"
        inputs.mkdir()
        inputs = Inputs(inputs, ROOT / "tests" / "fixtures" / "tokenizer")
        check = Determinism(self.session(), "mixce", inputs, self.folder, "cuda", dry=False)
        check.compare("same", lambda device, threads, limit_s: {"0": [1, 2]}, 2, 20, samples_that_differ)
        check.compare("by thread", lambda device, threads, limit_s: {"0": [threads]}, 2, 20)
        check.compare("nothing", lambda device, threads, limit_s: {}, 2, 20)
        self.assertEqual([entry["verdict"] for entry in self.entries()], ["ok", "failed", "failed"])
        same = self.entries()[0]["result"]
        self.assertEqual((same["runs"], same["distinct"], set(same["hashes"])), (4, 1, {"1", "16"}))
        self.assertEqual(same["hashes"]["1"], [digest({"0": [1, 2]})] * 2)

    def test_differences_from_the_cpu_in_words(self):
        self.assertTrue(samples_that_differ({"0": [1], "1": [2]}, {"0": [1], "1": [3], "2": [4]}).startswith("2 of 3 "))
        self.assertEqual(largest_difference({"1": [1.0]}, {"1": [1.0], "2": [1.0]}), "1 steps, the CPU's are 2")
        self.assertIn("at most 1.0e-01 ", largest_difference({"1": [1.1, 2.0]}, {"1": [1.0, 2.0]}))

    def test_the_last_of_two_steps_is_found_in_ncus_table(self):
        names = [
            "peak",
            "forward",
            "mixce_adamw",
            "cast",
            "mixce_adamw",
            "forward",
            "void cutlass::gemm<8, 8>(x)",
            "mixce_adamw",
            "cast",
            "mixce_adamw",
            "peak",
        ]
        header = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
        lines = [f'"{i}","{name}","gpu__time_duration.sum","us","1,000.5"' for i, name in enumerate(names)]
        table = self.folder / "ncu.csv"
        table.write_text("\n".join(["==PROF== Connected", header, *lines]) + "\n")
        found = kernels.summary(table, 2)
        self.assertEqual((found["launches"], round(found["ms"], 4), round(found["mixce_ms"], 4)), (5, 5.0025, 2.001))
        self.assertEqual(found["kernels"][0]["kernel"], "mixce_adamw")
        self.assertIn("cutlass::gemm", [kernel["kernel"] for kernel in found["kernels"]])
        with self.assertRaises(ValueError):
            kernels.last_step([("forward", 1.0)], 2)
        table.write_text("==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM\n")
        with self.assertRaisesRegex(ValueError, "no launch: ==ERROR== ERR_NVGPUCTRPERM"):
            kernels.summary(table, 2)


class Report(InFolder):
    def test_the_sample_of_a_dry_run_becomes_tables(self):
        sample = ROOT / "tests" / "fixtures" / "gpu" / "report-dry-cpu.jsonl"
        text = gpu_report.markdown(gpu_report.Reports([sample]))
        for title, _ in gpu_report.SECTIONS:
            self.assertIn(f"### {title}\n", text)
        self.assertIn("A dry run", text)
        self.assertRegex(text, r"\| gpt2 8x512 f32 \| [\d,]+ \| [\d,]+ \|")
        self.assertRegex(text, r"\| gpt2 8x512 tf32 \| refused \| skipped \|")
        self.assertNotIn("not run", text.replace("skipped", ""))

    def test_speed_beside_the_data_sheet_and_the_plan(self):
        entries = [
            {"step": "machine", "verdict": "ok", "result": {"gpu": {"name": "NVIDIA H100 80GB HBM3"}}},
            {"step": "train gpt2 8x512 bf16", "side": "plan", "verdict": "ok", "result": {"memory": {"peak": 2.5e9}}},
            {
                "step": "train gpt2 8x512 bf16",
                "side": "mixce",
                "verdict": "ok",
                "result": {"tokens_per_s": 1000.0, "gflops": 98940.0, "peak_device_bytes": 3e9},
            },
            {
                "step": "train gpt2 8x512 bf16",
                "side": "pytorch",
                "verdict": "ok",
                "result": {"tokens_per_s": 500.0, "peak_gpu_bytes": 4e9},
            },
            {"step": "train gpt2 8x512 bf16", "side": "compiled", "verdict": "timeout", "why": "no end"},
        ]
        first, second = self.folder / "a.jsonl", self.folder / "b.jsonl"
        first.write_text("\n".join(map(json.dumps, entries)))
        # A later run that did not reach a step leaves the earlier figures.
        second.write_text(
            json.dumps({"step": "train gpt2 8x512 bf16", "side": "mixce", "verdict": "skipped", "why": "no time left"})
        )
        rows = gpu_report.speeds(gpu_report.Reports([first, second]), "train")
        self.assertEqual(
            rows[2], "| gpt2 8x512 bf16 | 1,000 | 500 | timeout | **2.00** | 98.9 | 10.0 % | 5.0 % | 3.00 | 2.50 | 4.00 |"
        )

    def test_a_damaged_report_is_named_with_its_line(self):
        path = self.folder / "a.jsonl"
        path.write_text('{"step":"machine","verdict":"ok"}\n{"step":')
        with self.assertRaises(SystemExit) as refusal:
            gpu_report.Reports([path])
        self.assertIn("a.jsonl:2: ", str(refusal.exception))


if __name__ == "__main__":
    unittest.main()
