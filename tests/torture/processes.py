"""Processes that the torture tests start, kill, starve and interrupt.

Run as a script: ``python processes.py name arguments...``. What takes a model imports
torch once and forks, since a start costs seconds. Every process checks what it reads,
fails if it is wrong, and prints what it counted as JSON.
"""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rows

from sklearn_bert import store as store_module
from sklearn_bert.request import keys_of
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

TEXTS = [f"text {i} of zymurgy" + " and more" * (i % 3) for i in range(240)]
EVERYTHING = {"layer": "all", "pooling": ["cls", "mean", "max"]}
IS_LONG = os.environ.get("SKLEARN_BERT_TORTURE") == "long"
TOLERANCE = 1e-5
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def start(*arguments, **options):
    """Start this file in a process of its own."""
    threads = dict.fromkeys(
        ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **threads}
    options = {
        "env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
        **options,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)], text=True, **options
    )


def serve():
    """Import torch once, then run functions of this file, each in a child."""
    from sklearn_bert import BertVectorizer, encoder

    del BertVectorizer, encoder
    for line in sys.stdin:
        name, seconds, *arguments = json.loads(line)
        if not (pid := os.fork()):
            os.setsid()
            signal.alarm(seconds)  # never a hang
            status = 1
            try:
                globals()[name](*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # children that it left
        rows.say("ended", os.waitstatus_to_exitcode(status))


def ask(server, name, *arguments, seconds):
    """Have a server run a function of this file; return what it counted."""
    request = [name, seconds, *map(str, arguments)]
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    counted = None
    while not (line := server.stdout.readline()).startswith("ended"):
        assert line, "the server ended"
        counted = json.loads(line)
    assert line == "ended 0\n", (name, arguments, line)
    return counted


def tell(counts):
    """Print what `result_of` returns."""
    rows.say(json.dumps(counts))


# Made-up rows, no torch


def write(location, seed, seconds_ahead, tell_parent=None):
    """Claim, append and merge for ever; print the number of each shard finished."""
    store_module._MERGE_AT = 3
    store, draw = FeatureStore(location, rows.SPACE), random.Random(seed)
    clock = time.time
    for i in itertools.count():
        n = draw.randrange(1, 40)
        names = [f"{seed} {i} {j}" for j in range(n)]
        with store.claim(rows.keys_of(names), n):
            rows.append(store, names)
            if float(seconds_ahead):  # a clock that will be set back
                _date(store.directory, clock() + float(seconds_ahead))
        rows.say(seed, i, n)
        if tell_parent is not None:
            os.write(tell_parent, b"x")
        store.merge()


def killed_writers(location, n_kills, seconds_ahead):
    """Let one writer after the other write, and kill each at a random moment."""
    draw = random.Random(0)
    for seed in range(int(n_kills)):
        reader, writer = os.pipe()
        pid = _fork(lambda s=seed, w=writer: write(location, s, seconds_ahead, w))
        os.close(writer)  # so that reading ends if the writer dies by itself
        if draw.random() < 0.8:
            assert os.read(reader, 1)  # one shard is finished
        time.sleep(draw.uniform(0.0, 0.25))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def _date(directory, then):
    for place, _, names in os.walk(directory):  # what vanishes meanwhile is left out
        for name in (".", *names):
            with contextlib.suppress(OSError):
                os.utime(os.path.join(place, name), (then, then))


def read(location):
    """Read whatever is there until standard input ends; print rows checked."""
    store, n_rows, asked = FeatureStore(location, rows.SPACE), 0, []
    threading.Thread(
        target=lambda: [asked.append(line.strip()) for line in sys.stdin], daemon=True
    ).start()
    while "end" not in asked:
        store.refresh()
        names = [line for line in list(asked)[-400:] if line]
        n_rows += int(rows.found(store, names or ["none"])["mean"].sum())
    tell(n_rows)


def as_nobody(location):
    """Read a store, and try to add to it, without a right to write."""
    with tempfile.TemporaryDirectory() as own:  # what is imported late, while one may
        store = FeatureStore(Path(own, "joblib"), rows.SPACE)
        with store.claim(rows.keys_of([100]), 1):
            rows.append(store, [100])
        rows.append(store, [101])
        rows.found(store, [100])
        store.merge()
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = FeatureStore(location, rows.SPACE)
    store.reopen()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        n_found = int(rows.found(store, range(30))["mean"].sum())
        n_while_reading = len(caught)
        with store.claim(rows.keys_of([100]), 1):
            kept = [rows.append(store, [name]) for name in (100, 101)]
        store.merge()
    messages = [str(w.message) for w in caught if w.category is StoreWarning]
    tell([n_found, n_while_reading, kept, messages])


def limited(location, n_bytes):
    """Append where no file may be longer than n_bytes; print what was said."""
    import resource

    store = FeatureStore(location, rows.SPACE)
    store.reopen()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), resource.RLIM_INFINITY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with store.claim(rows.keys_of(range(50)), 50):
            kept = rows.append(store, range(50))
        store.merge()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    store.reopen()
    n_found = int(rows.found(store, [*range(50), "before"])["mean"].sum())
    tell([kept is not None, n_found, [str(w.message) for w in caught]])


# A tiny encoder


class Bench:
    """A model, a memory, and the features that must come out."""

    def __init__(self, model, memory, expected_file):
        from sklearn_bert import BertVectorizer, encoder, features  # torch, unused

        del encoder
        self.features, self.make = features, BertVectorizer
        self.model, self.memory = model, memory
        self.expected = np.load(expected_file)
        features._WINDOW_TEXTS = 8
        features._encoded_before = _Forgetful()
        store_module._MERGE_AT = 4

    def check(self, which, memory=None):
        """Encode some texts as a process that opens the store anew; check all."""
        self.features._stores.clear()
        vectorizer = self.make(self.model, memory=memory or self.memory, **EVERYTHING)
        found = vectorizer.fit_transform([TEXTS[i] for i in which])
        if not np.abs(found - self.expected[which]).max(initial=0) < TOLERANCE:
            raise AssertionError("wrong numbers")

    def directory(self, memory=None):
        (found,) = Path(store_location(memory or self.memory)).glob("*/v*")
        return found


class _Forgetful(dict):
    """Keeps nothing, so that no text is encoded "for the third time"."""

    def setdefault(self, key, default):
        return default


def _fork(work):
    """Run work in a child that says "wrong" by its exit status; return its id."""
    if not (pid := os.fork()):
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(status)
    return pid


def _ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _wait_for_all(pids):
    endings = [_ended_well(pid) for pid in pids]
    assert all(endings), endings


def kill_encoders(model, memory, expected_file, n_kills):
    """Kill processes that encode, while others do the same; then finish the work."""
    bench, draw = Bench(model, memory, expected_file), random.Random(0)
    everything = list(range(len(TEXTS)))
    n_stored = []
    for _ in range(int(n_kills)):
        order = random.Random(draw.random()).sample(everything, len(TEXTS))
        victim = _fork(lambda order=order: bench.check(order))
        other = _fork(lambda order=order: bench.check(order[:20]))
        time.sleep(draw.uniform(0.0, 0.5))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        assert _ended_well(other)
        places = list(Path(store_location(memory)).glob("*/v*"))
        if places:
            store = FeatureStore(places[0].parents[1], places[0].name)
            n_stored.append(store.info()["n_keys"])
            if n_stored[-1] == len(TEXTS):  # begin anew
                shutil.rmtree(places[0])
    assert _ended_well(_fork(lambda: bench.check(everything)))
    store_module._DEBRIS_SECONDS = 0.0
    store = FeatureStore(bench.directory().parents[1], bench.directory().name)
    store.merge()
    left = [p.name for p in store.directory.rglob("*") if p.suffix]
    debris = [name for name in left if name.endswith((".tmp", ".claim"))]
    assert not debris, debris
    tell({"stored_at_kills": n_stored, **store.info()})


def kill_trainings(model, place, n_kills):
    """Kill fits at random moments, go on where each stopped, compare the ends."""
    from sklearn_bert import BertFineTuneClassifier

    texts, y = TEXTS[:48], np.arange(48) % 2
    draw, checkpoint = random.Random(0), Path(place) / "checkpoint"
    wholes, found = Path(place) / "whole.npy", Path(place) / "found.npy"

    def fit(file, **given):
        options = {
            "random_state": 0, "max_iter": 6, "texts_per_step": 8, "max_length": 16,
            "unfreezing": "gradual", "early_stopping": True, "n_iter_no_change": 6,
        }  # fmt: skip
        classifier = BertFineTuneClassifier(model, **options, **given)
        answers = classifier.fit(texts, y).predict_proba(texts)
        np.save(file.with_name("aside.npy"), answers)
        os.replace(file.with_name("aside.npy"), file)

    begun = time.monotonic()
    assert _ended_well(_fork(lambda: fit(wholes)))
    seconds = time.monotonic() - begun
    n_files, n_done, n_kept = [], 0, 0
    for i in range(int(n_kills)):
        victim = _fork(lambda: fit(found, checkpoint_dir=checkpoint))
        while i % 3 and not list(checkpoint.glob("*.safetensors")):
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, seconds / 2))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        n_kept += bool(list(checkpoint.glob("*.safetensors")))
        files = list(checkpoint.glob("*")) if checkpoint.exists() else []
        n_files.append(len(files))
        if found.exists():  # it was done before: begin anew
            np.testing.assert_array_equal(np.load(found), np.load(wholes))
            n_done += 1
            found.unlink()
            shutil.rmtree(checkpoint)
    assert _ended_well(_fork(lambda: fit(found, checkpoint_dir=checkpoint)))
    np.testing.assert_array_equal(np.load(found), np.load(wholes))
    left = sorted(path.suffix for path in checkpoint.iterdir())
    assert left == [".safetensors"], left
    counts = {"most_files": max(n_files), "runs_ended": n_done + 1}
    tell(counts | {"kills_with_a_checkpoint": n_kept})


def inject(model, memory, expected_file, kind, step):
    """Fail at each file operation below memory in turn; print how many there are."""
    bench = Bench(model, memory, expected_file)
    texts = list(range(24))
    fault = _Fault(memory, kind)
    sys.addaudithook(fault)
    bench.check(texts)  # loads the encoder
    first = Path(memory).with_name("first")
    shutil.rmtree(memory)
    for i in range(4):
        bench.check([200 + i])
    shutil.copytree(memory, first)
    n_warnings = 0
    for n in itertools.count(step=int(step)):
        shutil.rmtree(memory)
        shutil.copytree(first, memory)
        store_module._warned.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fault.left = n
            with contextlib.suppress(KeyboardInterrupt):
                bench.check(texts)
            fired, fault.left = fault.left < 0, None
        others = [w for w in caught if w.category is not StoreWarning]
        assert not others, others[0]
        assert len(caught) <= 1, [str(w.message) for w in caught]
        n_warnings += len(caught)
        # The next run is right, silent but for what is broken, and keeps everything.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StoreWarning)
            bench.check(texts)
        before = bench.features.WORK.n_texts
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store_module._warned.clear()
            bench.check(texts)
        assert bench.features.WORK.n_texts == before, n
        if not fired:
            break
    tell({"operations": n, "warnings": n_warnings})


class _Fault:
    """An audit hook: fails, interrupts or removes at the n-th file operation."""

    KINDS = frozenset(
        [
            "open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime",
            "os.scandir", "os.listdir", "os.truncate", "shutil.rmtree",
        ]
    )  # fmt: skip

    def __init__(self, place, kind):
        self.place, self.kind, self.left = os.path.realpath(place), kind, None

    def __call__(self, event, arguments):
        if self.left is None or event not in self.KINDS:
            return
        path = arguments[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, int) or not os.fspath(path).startswith(self.place):
            return
        self.left -= 1
        if self.left >= 0 or (self.left < -1 and self.kind != "sticky"):
            return
        if self.kind == "interrupt":
            raise KeyboardInterrupt
        if self.kind == "vanish":
            left, self.left = self.left, None
            shutil.rmtree(self.place, ignore_errors=True)
            self.left = left
            return
        if self.kind == "sticky" and event in ("os.scandir", "os.listdir"):
            return
        number = errno.EIO if self.kind == "once" else errno.ENOSPC
        is_read = event == "open" and not arguments[2] & WRITES
        if self.kind == "sticky" and is_read:
            return  # a full disk can be read
        raise OSError(number, os.strerror(number), path)


def interrupt(model, memory, expected_file, n_times):
    """Interrupt a run by a timer at random moments; print how often it was hit."""
    bench, draw = Bench(model, memory, expected_file), random.Random(0)
    bench.check(range(4))
    n_interrupted, everything = 0, list(range(len(TEXTS)))

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    n_tried, longest = 0, 0.3
    # However fast the machine is: what is not hit is hit earlier.
    while n_tried < int(n_times) or n_interrupted <= int(n_times) // 3:
        n_tried += 1
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, longest))
                bench.check(draw.sample(everything, 60))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            longest = max(0.002, longest / 2)
        except KeyboardInterrupt:
            n_interrupted += 1
            longest = min(0.3, longest * 1.5)
        assert n_tried < 50 * int(n_times), "runs end before any timer"
        if bench.directory().is_dir() and draw.random() < 0.2:
            shutil.rmtree(bench.directory())
    signal.alarm(60)  # a lock that is still held would block for ever
    bench.check(everything)
    signal.alarm(0)
    bench.features._stores.clear()
    before = bench.features.WORK.n_texts
    bench.check(everything)
    assert bench.features.WORK.n_texts == before
    tell({"interrupted": n_interrupted})


def cold(model, memory, expected_file, n_processes, n_threads):
    """Encode the same texts in processes, or threads, at once; print how many."""
    bench = Bench(model, memory, expected_file)
    reader, writer = os.pipe()
    order = random.Random(0)

    def work(which):
        bench.check(which)

    def work_in_process(which):
        bench.check(which)
        os.write(writer, f"{bench.features.WORK.n_texts}\n".encode())

    shuffled = [order.sample(range(len(TEXTS)), len(TEXTS)) for _ in range(8)]
    pids = [
        _fork(lambda which=shuffled[i % 8]: work_in_process(which))
        for i in range(int(n_processes))
    ]
    _wait_for_all(pids)
    if int(n_threads):
        _in_threads([lambda which=shuffled[i % 8]: work(which) for i in range(8)])
    os.close(writer)
    counts = [int(n) for n in os.fdopen(reader).read().split()]
    counts.append(bench.features.WORK.n_texts)
    tell({"encoded": sum(counts), "texts": len(TEXTS)})


def _in_threads(tasks):
    errors = []

    def guarded(task):
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def load(model, memory, expected_file, seconds):
    """Read and write in 8 processes and 8 threads while joblib evicts and clears."""
    import joblib

    warnings.simplefilter("ignore", StoreWarning)  # a shard caught half removed
    bench = Bench(model, memory, expected_file)
    until = time.monotonic() + float(seconds)
    reader, writer = os.pipe()

    def work(seed, state):
        draw, n = random.Random(seed), 0
        while time.monotonic() < until:
            bench.check(draw.sample(range(len(TEXTS)), draw.choice([1, 5, 40])))
            n += 1
            if time.monotonic() > until - 0.75 * float(seconds) and not state:
                state.append(usage())  # after a quarter of the time
        return n

    def in_process(seed):
        state = []
        n = work(seed, state)
        _report(writer, n, state)

    def in_threads():
        state, counts = [], []
        _in_threads([lambda i=i: counts.append(work(100 + i, state)) for i in range(8)])
        _report(writer, sum(counts), state)

    def manage():
        store, n = joblib.Memory(memory, verbose=0), 0
        while time.monotonic() < until:
            time.sleep(0.05)
            with contextlib.suppress(OSError):  # joblib's own, of files just gone
                store.reduce_size(items_limit=6)
                if n % 20 == 19:
                    store.clear(warn=False)
            n += 1
        _report(writer, 0, [usage()])

    def hold_and_die():
        while time.monotonic() < until:
            pid = _fork(lambda: _hold(bench))
            time.sleep(random.uniform(0.05, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    pids = [_fork(lambda i=i: in_process(i)) for i in range(8)]
    pids += [_fork(task) for task in (in_threads, manage, hold_and_die)]
    _wait_for_all(pids)
    os.close(writer)
    lines = [json.loads(line) for line in os.fdopen(reader)]
    bench.check(range(len(TEXTS)))
    tell({
        "calls": sum(line[0] for line in lines),
        "more_files": max(line[1] for line in lines),
        "more_megabytes": max(line[2] for line in lines),
    })  # fmt: skip


def _hold(bench):
    """Claim every text, and both locks in turn, until killed."""
    place = Path(store_location(bench.memory)) / "sklearn_bert-features"
    space = next((p.name for p in place.glob("v*")), "v0")
    store = FeatureStore(place.parent, space)
    keys = keys_of(TEXTS, "")
    merge, mutex = map(store._claims.exclusive, ("merge", "mutex"))
    with store.claim(keys, len(keys)), merge, mutex:
        time.sleep(60)


def usage():
    """Return open files, and resident memory in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGESIZE") / 2**20


def _report(writer, n, state):
    files, megabytes = usage()
    first = state[0] if state else (files, megabytes)
    line = [n, files - first[0], round(megabytes - first[1], 1)]
    os.write(writer, (json.dumps(line) + "\n").encode())


def cycle(model, memory, expected_file, n_cycles):
    """Fit and transform again and again, warm and cold; print what grew."""
    from sklearn_bert import BertVectorizer

    Bench(model, memory, expected_file)
    n_cycles, first, n_threads = int(n_cycles), None, 0
    for i in range(n_cycles):
        place = memory if i % 3 else None
        vectorizer = BertVectorizer(model, memory=place)
        vectorizer.fit(["a", "b"]).transform([f"text {i // 2 % 2000}"])
        if i == n_cycles // 4:
            first, n_threads = usage(), threading.active_count()
    files, megabytes = usage()
    tell({
        "cycles": n_cycles,
        "more_files": files - first[0],
        "more_threads": threading.active_count() - n_threads,
        "more_megabytes": round(megabytes - first[1], 1),
    })  # fmt: skip


def start_methods(model, memory, expected_file, methods):
    """Encode here, then in processes and threads started in several ways."""
    import multiprocessing

    import joblib

    bench = Bench(model, memory, expected_file)
    bench.check(range(20))
    arguments = (model, memory, expected_file)
    for method in methods.split():
        if method == "fork":
            assert _ended_well(_fork(lambda: bench.check(range(20, 40))))
        elif method == "spawn":
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=_check_elsewhere, args=(*arguments, 40))
            process.start()
            process.join()
            assert process.exitcode == 0
        else:
            joblib.Parallel(n_jobs=2, backend=method)(
                joblib.delayed(_check_elsewhere)(*arguments, first)
                for first in (60, 80)
            )
    bench.check(range(100))
    tell(methods.split())


def _check_elsewhere(model, memory, expected_file, first):
    Bench(model, memory, expected_file).check(range(first, first + 20))


# Hostile files


def watched(model, memory, expected_file):
    """Run on a hostile store; print what was executed, read and written elsewhere."""
    import tempfile

    import joblib

    bench = Bench(model, memory, expected_file)
    with tempfile.TemporaryDirectory() as other:  # imports and loads everything
        for first in range(0, 60, 10):
            bench.check(range(first, first + 10), memory=other)
        joblib.Memory(other, verbose=0).reduce_size(items_limit=3)
    seen = {"executed": [], "read": [], "written": []}
    allowed = [os.path.realpath(memory), os.path.realpath(model)]
    is_on, announced = True, []

    def hook(event, arguments):
        if not is_on:
            return
        if event in ("pickle.find_class", "os.system", "subprocess.Popen", "exec"):
            seen["executed"].append([event, str(arguments)[:200]])
        if event not in _Fault.KINDS or isinstance(arguments[0], int):
            return
        path = os.fspath(arguments[0])
        above = next((i for i in arguments[1:] if type(i) is int and i > 2), None)
        if event.startswith("os.re") and above and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{above}"), path)
        elif not os.path.isabs(path):
            return  # below a directory that was opened, and so seen
        flags = arguments[2] if event == "open" else os.O_RDWR
        follows = event == "open" and not flags & os.O_NOFOLLOW
        if announced and path == announced[0][1] and not follows:
            announced.clear()  # `open` says so before it asks its opener
        seen["read"] += announced
        announced.clear()
        parent, name = os.path.split(path)
        real = os.path.join(os.path.realpath(parent), name)
        if follows:
            real = os.path.realpath(path)
        if real.startswith((*allowed, "/proc/", "/sys/", "/dev/shm")):
            return
        is_read = event in ("os.scandir", "os.listdir") or (not flags & WRITES)
        if is_read and "python" in real:
            return  # the interpreter reads its own source for a warning
        if is_read and event == "open" and isinstance(arguments[1], str):
            announced.append([event, path])
        else:
            seen["read" if is_read else "written"].append([event, real])

    sys.addaudithook(hook)
    warnings.simplefilter("ignore", StoreWarning)
    bench.check(range(60))
    bench.check(range(60))
    store = FeatureStore(store_location(memory), Path(next(_spaces(memory))).name)
    store.merge()
    joblib.Memory(memory, verbose=0).reduce_size(items_limit=2)
    is_on = False
    tell(seen)


def _spaces(memory):
    return Path(store_location(memory)).glob("sklearn_bert-features/v*")


def offline(model, given):
    """Encode with every socket forbidden; print widths."""
    from huggingface_hub import constants

    from sklearn_bert import BertVectorizer

    def hook(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            sys.stderr.write(f"{event} {arguments}\n")
            os._exit(3)

    sys.addaudithook(hook)
    constants.HF_HUB_OFFLINE = given == "environment"  # as it is read at its import
    options = {"local_files_only": True} if given != "environment" else {}
    widths = [
        BertVectorizer(*name, **options).fit_transform(["a", "b"]).shape[1]
        for name in ([model], [])
    ]
    for name in ("someone/not-there", "bert-base-uncased"):
        try:
            BertVectorizer(name, **options).fit(["a"])
        except ValueError as error:
            if "neither a directory nor a model" not in str(error):
                raise
        else:
            raise AssertionError(name)
    tell(widths)


def remote_code(model, trust, place):
    """Load a checkpoint that brings code; print the error, or ""."""
    from transformers.utils import hub

    from sklearn_bert import BertVectorizer

    hub.HF_MODULES_CACHE = place
    try:
        BertVectorizer(model, trust_remote_code=trust == "yes").fit_transform(["a b"])
    except Exception as error:
        tell(f"{type(error).__name__}: {error}")
    else:
        tell("")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
