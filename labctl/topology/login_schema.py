"""The shape of `login:` and `console:`, as pydantic models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from labctl.errors import shown
from labctl.topology import fields, login
from labctl.topology.paths import absolute

CONSOLE = "console"
"""What `login:` says where nobody logs in by SSH."""
MOST_STEPS = 64
MOST_EXPECTED = 200
"""Characters that are waited for."""
MOST_SENT = 1000
"""Characters of a line: terminals in their usual mode take 4095 (termios(3), N_TTY_BUF_SIZE)."""
MOST_SECONDS = 3600
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ELSEWHERE = "a topology is no place for a secret: write {env: NAME} or {file: PATH}"


def _line(value: object, what: str, most: int, example: str) -> str:
    if not isinstance(value, str):
        fields.refuse(f"{what} must be text such as {example}, in quotes, not {shown(value)}")
    if len(value) > most:
        fields.refuse(f"{what} has at most {most} characters, not {len(value)}")
    if not value.isprintable():
        fields.refuse(f"{what} must be one line of printable text", "each line is a step")
    return value


def _user(value: object) -> str:
    text = _line(value, "user", 64, "'admin'")
    if not _USER.fullmatch(text):
        fields.refuse(
            f"{shown(text)} cannot be a user's name", "letters, digits, '_', '.', '@', '-'"
        )
    return text


def _variable(value: object) -> str:
    text = _line(value, "env", 128, "'R1_PASSWORD'")
    if not _VARIABLE.fullmatch(text):
        fields.refuse(f"{shown(text)} cannot be a variable's name", "letters, digits and '_'")
    return text


def _expected(value: object) -> str:
    text = _line(value, "expect", MOST_EXPECTED, "'login:'")
    if not text.replace("*", "").strip():
        fields.refuse("expect must say a text to wait for", "such as 'login:'; * is anything")
    return text


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        fields.refuse(f"within must be a number of seconds, not {shown(value)}")
    if not 0 < value <= MOST_SECONDS:
        fields.refuse(f"within must be more than 0 and at most {MOST_SECONDS}, not {shown(value)}")
    return float(value)


def _sent(value: object, _both: object) -> str | Secret | None:
    # By what is written, so that what is told is wrong with that, not with both of a union.
    if value is None or isinstance(value, dict):
        return None if value is None else Secret.model_validate(value)
    return _line(value, "send", MOST_SENT, "'admin'")


def _login(value: object, _both: object) -> Login | str | None:
    if value is None or value == CONSOLE:
        return value
    if not isinstance(value, dict):
        hint = f"write login: {{user: NAME, key: PATH}}, or login: {CONSOLE}"
        fields.refuse(f"login is a mapping, or {CONSOLE}, not {shown(value)}", hint)
    return Login.model_validate(value)


def _no_text(value: object, handler: Any) -> Any:
    if not isinstance(value, dict) and value is not None:
        fields.refuse("a password is not written here", _ELSEWHERE)
    return handler(value)


User = Annotated[str, PlainValidator(_user), WithJsonSchema({"type": "string"})]
Variable = Annotated[str, PlainValidator(_variable), WithJsonSchema({"type": "string"})]
Expected = Annotated[
    str, PlainValidator(_expected), WithJsonSchema({"type": "string", "maxLength": MOST_EXPECTED})
]
Seconds = Annotated[
    float,
    PlainValidator(_seconds),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS}),
]


class Secret(BaseModel):
    """Where a text is that a topology must not hold: a password."""

    model_config = fields.STRICT

    env: Variable | None = None
    """The environment variable that has it when `up` runs."""
    file: fields.File | None = None
    """A file whose first line it is; a path relative to this file."""

    @model_validator(mode="after")
    def _fits(self) -> Secret:
        if bool(self.env) == bool(self.file):
            what = "both env and file" if self.env else "neither env nor file"
            fields.refuse(f"this has {what}", "write one of them")
        return self

    def resolve(self, base: Path) -> login.Secret:
        """Return it with an absolute path."""
        return login.Secret(self.env or "", absolute(base, self.file) if self.file else None)


class Login(BaseModel):
    """Who logs in by SSH, over the management network, and by what: a password, or a key."""

    model_config = fields.STRICT

    user: User
    """The user, for whom labctl's commands run; only root's can look at packets."""
    password: Annotated[Secret | None, WrapValidator(_no_text)] = None
    """Where the password is: {env: NAME} or {file: PATH}."""
    key: fields.File | None = None
    """A file with a private key, without a passphrase; a path relative to this file."""

    @model_validator(mode="after")
    def _fits(self) -> Login:
        if bool(self.password) == bool(self.key):
            what = "both a password and a key" if self.key else "neither a password nor a key"
            fields.refuse(f"this login has {what}", "write one of them")
        return self

    def resolve(self, base: Path) -> login.Login:
        """Return it with absolute paths."""
        password = self.password.resolve(base) if self.password else None
        return login.Login(self.user, password, absolute(base, self.key) if self.key else None)


class ConsoleStep(BaseModel):
    """What is waited for on the console, and the line that is typed then."""

    model_config = fields.STRICT

    expect: Expected
    """A text within a line of the console; a * in it stands for anything in that line."""
    send: Annotated[str | Secret | None, WrapValidator(_sent)] = None
    """The line to type, then Enter; where it is secret, {env: NAME} or {file: PATH}. Nothing is
    typed where this is left out."""
    within: Seconds = Field(default=login.STEP_SECONDS)
    """Seconds that the console may take to say it."""

    def resolve(self, base: Path) -> login.ConsoleStep:
        """Return it with an absolute path."""
        secret = self.send.resolve(base) if isinstance(self.send, Secret) else None
        send = self.send if isinstance(self.send, str) else None
        return login.ConsoleStep(self.expect, send, secret, self.within)


LoginOrConsole = Annotated[Login | Literal["console"], WrapValidator(_login)]
