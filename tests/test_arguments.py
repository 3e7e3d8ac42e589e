"""The command line: HTTPSQS's flags, the long options, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logqueue.address import Address
from logqueue.arguments import _parser, parse
from logqueue.config import Config
from logqueue.errors import UsageError
from logqueue.limits import LIMITS, Limit

PAGE = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_defaults() -> None:
    assert parse(["-x", "d"]) == Config("d")


def test_every_flag_of_httpsqs() -> None:
    line = "-l 0.0.0.0 -p 1219 -x d -t 30 -s 2 -c 2048 -m 500 -i /tmp/p -a secret -d"
    config = parse(line.split())
    assert config == Config(
        "d",
        addresses=(Address("0.0.0.0"),),
        port=1219,
        timeout_idle_s=30,
        durability="interval",
        sync_interval_s=2,
        pid_file="/tmp/p",
        auth="secret",
        detach=True,
    )


def test_long_options_are_the_same() -> None:
    short = "-l ::1 -p 0 -x d -t 30 -s 2 -c 1 -m 1 -i p -a secret -d"
    long = (
        "--listen ::1 --port 0 --data d --timeout 30 --sync-interval 2 --cache 1 --memory 1 "
        "--pid-file p --auth secret --daemon"
    )
    assert parse(short.split()) == parse(long.split())


def test_durability_given_by_name_wins_over_s() -> None:
    config = parse(["-x", "d", "-s", "2", "--durability", "os"])
    assert (config.durability, config.sync_interval_s) == ("os", 2)


def test_an_empty_password_is_a_password() -> None:
    assert parse(["-x", "d", "-a", ""]).auth == ""


def test_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"s\xe9cret \nnot this\n")
    assert parse(["-x", "d", "--auth-file", str(file)]).auth == "s\udce9cret "
    for content in (b"", b"\nsecond\n", b"\r\n"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="first line is empty"):
            parse(["-x", "d", "--auth-file", str(file)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "-x/--data"),
        ("-x", "-x/--data"),
        ("-x d -p 65536", "'65536' is not a number from 0 to 65535"),
        ("-x d -p http", "'http' is not a number"),
        ("-x d -l [::1", "-l/--listen: '[::1' is no address"),
        ("-x d -l h:65536", "-l/--listen: '65536' in 'h:65536' is not a number"),
        ("-x d -l unix:", "-l/--listen: 'unix:' names no path"),
        ("-x d --tls-cert c", "--tls-cert and --tls-key go together"),
        ("-x d -t 0", "-t/--timeout"),
        ("-x d -t nan", "-t/--timeout"),
        ("-x d -s -1", "-s/--sync-interval"),
        ("-x d --durability never", "'always', 'interval', 'os'"),
        ("-x d --dur os", "unrecognized arguments: --dur os"),
        ("-x d -z", "unrecognized arguments: -z"),
        ("-x d -a secret --auth-file f", "exclude each other"),
        ("-x d --auth-file /nowhere/f", "/nowhere/f: No such file"),
    ],
)
def test_usage_errors_name_the_option(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(line.split())


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["-h"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in "lpxtscmiadh":
        assert f"-{flag}" in text
    assert "without effect" in text


def test_every_option_has_a_row_and_its_default() -> None:
    """In one of the two tables of docs/configuration.md, and no row is about anything else."""
    rows = re.findall(r"^\| (`-[^|]*`) \| ?([^|]*?) ?\|", PAGE, re.M)
    listed = [word for words, _ in rows for word in re.findall(r"`(-[^`]+)`", words)]
    assert len(listed) == len(set(listed))
    assert {each for each in listed if each.startswith("--")} == set(option_strings())
    for words, default in rows:
        if re.fullmatch(r"[0-9]+", default):
            (field,) = {key for option, key in option_strings().items() if f"`{option}`" in words}
            assert getattr(Config("d"), field) == int(default), words


def option_strings() -> dict[str, str]:
    """Every long option -> the name of its value."""
    actions = _parser()._actions
    return {o: each.dest for each in actions for o in each.option_strings if o.startswith("--")}


def test_a_short_timeout_of_httpsqs_shortens_the_others() -> None:
    config = parse(["-x", "d", "-t", "5"])
    assert (config.timeout_head_s, config.timeout_body_s, config.timeout_write_s) == (5, 5, 5)
    config = parse(["-x", "d", "-t", "20", "--body-timeout", "25"])
    assert (config.timeout_head_s, config.timeout_body_s, config.timeout_write_s) == (10, 25, 20)


@pytest.mark.parametrize("limit", LIMITS, ids=[each.option for each in LIMITS])
def test_each_limit_is_a_setting_with_an_edge_and_a_reason(limit: Limit) -> None:
    for value in (limit.least, limit.most):
        assert getattr(parse(["-x", "d", limit.option, f"{value}"]), limit.field) == value
    for value in (limit.least - 1, limit.most * 2):
        with pytest.raises(UsageError, match=limit.option):
            parse(["-x", "d", f"{limit.option}={value}"])
    default = getattr(Config("d"), limit.field)
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    assert f"| `{limit.option}` | {shown} | " in PAGE
