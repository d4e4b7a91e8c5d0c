"""The command line as its users meet it: processes, exit codes, and what stands on which stream."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer

from ai_how import __version__, errors
from ai_how.cli import app, main, terminal
from ai_how.cli.options import Options

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("AI_HOW", "LIBVIRT", "NO_COLOR", "_AI_HOW"))}


def ai_how(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ai_how", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**ENVIRONMENT, **environment},
    )


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version_names_this_version_and_python(words: list[str]) -> None:
    ended = ai_how(*words)
    assert ended.returncode == 0
    assert ended.stdout == f"ai-how {__version__}\npython {'.'.join(map(str, sys.version_info[:3]))}\n"
    assert ended.stderr == ""


@pytest.mark.parametrize("words", [["version", "--json"], ["--json", "version"], ["version", "--json", "--no-color"]])
def test_version_as_json_is_the_same_before_and_after_the_verb(words: list[str]) -> None:
    assert json.loads(ai_how(*words).stdout)["ai-how"] == __version__


def test_version_imports_neither_the_parser_nor_rich() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ai_how", "version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    imported = set(re.findall(r"\|\s+([\w.]+)$", ended.stderr, flags=re.MULTILINE))
    assert "ai_how.cli.version" in imported
    assert not imported & {"typer", "rich", "pydantic", "lxml", "yaml", "libvirt"}


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ai_how", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    imported = set(re.findall(r"\|\s+([\w.]+)$", ended.stderr, flags=re.MULTILINE))
    assert "typer" in imported
    verbs = {f"ai_how.cli.{verb.target.split(':')[0]}" for verb in app.VERBS.values()} - {"ai_how.cli.app"}
    assert not imported & ({"rich", "pydantic", "lxml", "yaml", "libvirt"} | verbs)


def test_help_lists_every_verb_with_its_summary() -> None:
    ended = ai_how("--help", COLUMNS="200")
    assert ended.returncode == 0
    for name, verb in app.VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", ended.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("name", app.VERBS)
def test_summary_in_the_table_is_the_first_line_of_the_verbs_own_help(name: str) -> None:
    stub = app.build().commands[name]
    assert stub.load().help.partition("\n")[0] == stub.short_help


@pytest.mark.parametrize("name", app.VERBS)
def test_every_verb_and_subverb_takes_the_global_options_and_no_completion_options(name: str) -> None:
    def options(command: object) -> None:
        flags = [flag for param in command.params for flag in param.opts]  # type: ignore[attr-defined]
        assert {"--state", "--connect", "--json", "--verbose", "--no-color"} <= set(flags)
        assert "--install-completion" not in flags
        assert len(flags) == len(set(flags)), "a verb's own option has the name of a global one"
        for sub in getattr(command, "commands", {}).values():
            options(sub)

    options(app.build().commands[name].load())


def test_no_arguments_shows_the_help_and_is_wrong_use() -> None:
    ended = ai_how()
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Usage: ai-how" in ended.stderr
    assert "error" not in ended.stderr


def test_unknown_verb_is_wrong_use_and_says_what_was_meant() -> None:
    ended = ai_how("vresion")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: No such command 'vresion'. Did you mean 'version'?\n")
    assert ended.stdout == ""


@pytest.mark.parametrize("words", [["version", "extra"], ["version", "--nonsense"], ["--nonsense"], ["--state"]])
def test_wrong_use_is_2_and_one_error(words: list[str]) -> None:
    ended = ai_how(*words)
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "Traceback" not in ended.stderr


def test_wrong_use_with_json_is_an_error_for_programs_too() -> None:
    ended = ai_how("nope", "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout) == {
        "error": {
            "what": "No such command 'nope'.",
            "why": "",
            "remedy": "ai-how --help says how it is used",
        }
    }


def test_usage_is_shown_by_h_and_help_alike() -> None:
    assert ai_how("version", "-h").stdout == ai_how("version", "--help").stdout != ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_verbs_that_fit(shell: str) -> None:
    ended = ai_how(
        _AI_HOW_COMPLETE=f"complete_{shell}",
        COMP_WORDS="ai-how ver",
        COMP_CWORD="1",
        _TYPER_COMPLETE_ARGS="ai-how ver",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "version" in ended.stdout
    assert "validate" not in ended.stdout
    assert "Usage" not in ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_global_options_of_a_verb(shell: str) -> None:
    ended = ai_how(
        _AI_HOW_COMPLETE=f"complete_{shell}",
        COMP_WORDS="ai-how version --no",
        COMP_CWORD="2",
        _TYPER_COMPLETE_ARGS="ai-how version --no",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "--no-color" in ended.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ai-how doctor n", {"networks", "network"}),
        ("ai-how doctor vm ", {"test"}),
    ],
)
def test_completion_offers_what_the_doctor_can_be_asked(typed: str, offered: set[str]) -> None:
    ended = ai_how(
        _AI_HOW_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(typed.count(" ")),
        LIBVIRT_DEFAULT_URI="test:///default",
    )
    assert set(ended.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_each_shell_calls_us_back(shell: str) -> None:
    ended = ai_how("--show-completion", shell)
    assert "_AI_HOW_COMPLETE=complete_" + shell in ended.stdout
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/ai-how.sh"),
        ("zsh", ".zfunc/_ai-how"),
        ("fish", ".config/fish/completions/ai-how.fish"),
    ],
)
def test_completion_is_installed_where_each_shell_looks(tmp_path: Path, shell: str, file: str) -> None:
    ended = ai_how("--install-completion", shell, HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "_AI_HOW_COMPLETE=complete_" + shell in (tmp_path / file).read_text()


def test_completion_that_cannot_be_installed_is_an_error_with_the_other_way(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file where the folder should be")
    ended = ai_how("--install-completion", "fish", HOME=str(tmp_path))
    assert ended.returncode == 3
    assert "--show-completion fish" in ended.stderr


def test_shell_that_cannot_complete_is_wrong_use() -> None:
    ended = ai_how("--show-completion", "tcsh")
    assert ended.returncode == 2
    assert "tcsh" in ended.stderr


def test_bash_completes_with_the_script_that_we_show(tmp_path: Path) -> None:
    program = tmp_path / "ai-how"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ai_how "$@"\n')
    program.chmod(0o755)
    script = ai_how("--show-completion", "bash").stdout
    (tmp_path / "completion").write_text(script)
    ask = (
        f"source {tmp_path}/completion; [[ $(complete -p ai-how) =~ -F\\ ([^ ]+) ]];"
        "COMP_WORDS=(ai-how val); COMP_CWORD=1; ${BASH_REMATCH[1]} ai-how; echo ${COMPREPLY[@]}"
    )
    ended = subprocess.run(
        ["bash", "-c", ask],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert ended.stdout == "validate\n", ended.stderr


def test_reader_that_went_away_ends_us_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        ended = subprocess.run(
            [sys.executable, "-m", "ai_how", "--help"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env=ENVIRONMENT,
        )
    assert (ended.returncode, ended.stderr) == (141, "")


# ---- what a verb is given, and what becomes of its result and its errors: with a verb of the test's own --------------

Invoke = Callable[..., int]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs `ai-how trial …` in this process, `trial` being the given function."""

    def run(function: Callable[[Options], int | None], *words: str) -> int:
        def trial(ctx: typer.Context) -> int | None:
            return function(ctx.obj)

        module = ModuleType("ai_how.cli.trial")
        module.trial = trial  # type: ignore[attr-defined]
        trial.__annotations__["ctx"] = typer.Context
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(app.VERBS, "trial", app.Verb("trial:trial", "Try."))
        return main.run(words)

    return run


def fails_with(error: BaseException) -> Callable[[Options], int]:
    def function(_: Options) -> int:
        raise error

    return function


@pytest.mark.parametrize(
    "words",
    [
        ["--state", "a", "--connect", "b", "--json", "-v", "-v", "trial"],
        ["trial", "--state", "a", "--connect", "b", "--json", "-v", "-v"],
        ["--state", "x", "--json", "-v", "trial", "--connect", "b", "--state=a", "-v"],
        ["--state", "x", "--state", "a", "trial", "-vv", "--json", "--connect", "b"],
    ],
)
def test_global_options_reach_the_verb_from_both_sides_and_the_last_one_counts(
    invoke: Invoke, words: list[str]
) -> None:
    seen: list[Options] = []
    assert invoke(seen.append, *words) == 0
    assert seen == [Options(state=Path("a"), connect="b", json=True, verbose=2)]


def test_environment_gives_the_defaults_and_options_win(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_HOW_STATE", "from-environment")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    seen: list[Options] = []
    invoke(seen.append, "trial")
    invoke(seen.append, "--state", "given", "trial")
    assert [(str(o.state), o.connect) for o in seen] == [
        ("from-environment", "test:///default"),
        ("given", "test:///default"),
    ]


def test_empty_environment_variables_count_as_not_set(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_HOW_STATE", "")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "")
    seen: list[Options] = []
    invoke(seen.append, "trial")
    assert seen == [Options(Path("cluster_state.json"), "qemu:///system")]


def test_what_a_verb_returns_is_the_exit_code(invoke: Invoke) -> None:
    assert [invoke(lambda _, code=code: code, "trial") for code in (None, 0, 1, 2)] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotReady("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.HostError("x"), 3),
        (errors.PrivilegeError("x"), 4),
        (errors.Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 3),
    ],
)
def test_each_error_has_its_exit_code_and_no_traceback(
    invoke: Invoke, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert invoke(fails_with(error), "trial") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_error_says_what_why_and_remedy(invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(fails_with(errors.HostError("no bridge", why="it is gone", remedy="make it\nor not")), "trial")
    assert capsys.readouterr().err == "error: no bridge: it is gone\n    make it\n    or not\n"


def test_error_as_json_is_on_stdout_and_for_people_on_stderr(
    invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(fails_with(errors.HostError("no bridge", why="it is gone", remedy="make it")), "trial", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"what": "no bridge", "why": "it is gone", "remedy": "make it"}}
    assert "no bridge" in err


def test_words_for_another_program_are_not_ours(invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(lambda _: 0, "trial", "--", "--json") == 2  # an argument that the verb does not take
    assert capsys.readouterr().out == ""


def test_bug_says_where_and_how_to_report_and_shows_its_traceback_on_demand(
    invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(fails_with(ZeroDivisionError("oops")), "trial")
    quiet = capsys.readouterr().err
    invoke(fails_with(ZeroDivisionError("oops")), "trial", "-vv")
    loud = capsys.readouterr().err
    assert "bug in ai-how: ZeroDivisionError: oops (at test_cli.py:" in quiet
    assert "AI_HOW_DEBUG=1" in quiet
    assert "Traceback" not in quiet
    assert "Traceback (most recent call last)" in loud


def test_problems_are_written_as_compilers_do(invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = errors.Problem(("clusters", "a", "compute_nodes", 0), "bad", "write it so", file="c.yaml", line=3, column=7)
    unwise = errors.Problem((), "unwise", severity=errors.Severity.WARNING)
    assert invoke(fails_with(errors.ConfigurationError([wrong, unwise])), "trial") == 2
    assert capsys.readouterr().err == (
        "c.yaml:3:7: error: clusters.a.compute_nodes[0]: bad\n    write it so\nwarning: unwise\n"
    )


def test_question_without_a_terminal_is_wrong_use_that_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert terminal.confirm("Destroy?", yes=True)
    with pytest.raises(errors.UsageError) as caught:
        terminal.confirm("Destroy?", yes=False)
    assert caught.value.remedy == "add --yes"


def on_a_terminal(*words: str, **environment: str) -> str:
    """What `ai-how` writes when its streams are a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ai_how", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**ENVIRONMENT, "TERM": "xterm", **environment},
    ) as process:
        os.close(follower)
        process.wait(timeout=60)
        return os.read(leader, 65536).decode()


def test_colours_are_for_terminals_that_want_them() -> None:
    assert "\x1b[" in on_a_terminal("nope")
    assert "\x1b[" not in on_a_terminal("nope", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal("nope", TERM="dumb")
    assert "\x1b[" not in on_a_terminal("--no-color", "nope")
    assert "\x1b[" not in ai_how("nope").stderr


def test_table_is_aligned_and_shows_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(["name", "ip"], [["controller", None], ["c", "10.0.0.2"]])
    assert capsys.readouterr().out == "NAME        IP\ncontroller  -\nc           10.0.0.2\n"
