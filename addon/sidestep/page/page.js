// The live page: one stream of events brings the whole picture, at most twice a second; what is shown is made of it.
// Whatever comes from outside (names, models, words of providers) becomes text, never markup.

const $ = (id) => document.getElementById(id);
const MODES = { enforce: "acts on calls", observe: "looks on and changes nothing", off: "does nothing" };
const HOLDS = [
  ["auto", "Automatic", "let its circuit decide", "is automatic: its circuit decides"],
  ["open", "Hold open", "send it no calls", "is held open: it gets no calls"],
  ["disable", "Always ask", "send it calls, whatever fails", "is always asked, whatever fails"],
];
const SILENT_MS = 40_000; // the proxy gives a sign of life every 15 s
const TOKEN = "sidestep-token";

let token = "";
let picture = null;
let heard = Date.now();
let source = null;

// --- making elements

/** An element with properties, and children that are elements or text. */
function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "style") Object.assign(made.style, value);
    else if (key in made && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const shown = new WeakMap();

/** Put children into a place, unless what they are made of is what it was: focus and selection stay. */
function fill(place, data, make) {
  const text = JSON.stringify(data);
  if (shown.get(place) === text) return;
  shown.set(place, text);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...make());
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

// --- words

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });

function count(value) {
  if (value < 10_000) return number(value);
  return value < 1e6 ? `${(value / 1e3).toFixed(1)} k` : `${(value / 1e6).toFixed(2)} M`;
}

function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? `${hours} h ${Math.floor((seconds % 3600) / 60)} min` : `${Math.floor(hours / 24)} days`;
}

const dollars = (value) => (value === 0 ? "$0" : value < 0.01 ? `$${value.toFixed(4)}` : `$${value.toFixed(2)}`);
/** A number stays on one line with its unit. */
const joined = (text) => text.replace(/(\d) (s|ms|min|h|days)\b/g, "$1\u00a0$2");
const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

// --- the parts of the page

function showHead(p) {
  const words = { ok: "all is well", degraded: "works around a failure", unhealthy: "no provider takes calls" };
  $("dot").className = `dot ${p.status}`;
  $("status").className = `state ${p.status}`;
  $("status").textContent = words[p.status] ?? p.status;
  document.title = `${p.status === "ok" ? "" : "⚠ "}Sidestep: ${p.status}`;
  $("uptime").textContent = `up ${age(p.now - p.started)}, ${plural(p.in_flight, "attempt")} under way`;
  $("source").textContent = `Configuration: ${p.source}`;
  fill($("modes"), [p.mode, token !== ""], () =>
    Object.entries(MODES).map(([mode, what]) =>
      el("button", {
        type: "button", "aria-pressed": String(mode === p.mode), title: `Mode ${mode}: ${what}`, disabled: token === "",
        "data-key": `mode ${mode}`, onclick: () => act(`/mode/${mode}`, `Mode ${mode}: Sidestep ${what}.`),
      }, mode)));
  $("unlock").textContent = token ? "Lock controls" : "Unlock controls";
}

function verdict(route) {
  const name = el("b", {}, route.name);
  if (route.served_by === null) return [el("b", {}, "No provider"), " takes ", name, " calls"];
  return [name, " calls: served by ", el("b", {}, route.served_by)];
}

function showRoutes(p) {
  fill($("routes"), p.routes, () => p.routes.map((r) => {
    const since = r.since ? ` since ${clock(r.since)}` : "";
    const stays = Object.entries(r.stays ?? {}).map(([name, n]) => `${plural(n, "conversation")} stay${n === 1 ? "s" : ""} with ${name}`);
    return el("article", { class: `route ${r.status}` },
      el("p", { class: "verdict" }, ...verdict(r), since, r.because ? joined(`, because ${r.because}`) : ""),
      stays.length ? el("p", {}, stays.join("; ")) : null,
      el("p", { class: "quiet" }, `${r.intercepts.join(", ")} → ${r.providers.join(", ")} (${r.strategy})`));
  }));
}

/** How it is with the proxies that share what they know. */
function showFleet(p) {
  const fleet = p.fleet;
  $("fleet").hidden = !fleet;
  fill($("fleet"), fleet?.words ?? "", () => [el("span", { class: `dot ${fleet?.state === "together" ? "ok" : "degraded"}`, "aria-hidden": "true" }), ` Fleet: ${joined(fleet?.words ?? "")}`]);
}

/** The workers that share the port, where there are several. */
function showWorkers(p) {
  const workers = p.workers ?? [];
  $("workers").hidden = workers.length === 0;
  fill($("workers"), workers, () => [el("h2", {}, "Workers"), el("ul", { class: "workers" }, ...workers.map((w) => {
    const words = {
      serves: () => `${plural(w.calls, "call")}, ${number(w.failed)} failed${w.in_flight ? `, ${number(w.in_flight)} under way` : ""}${w.mode === p.mode ? "" : `, mode ${w.mode}`}`,
      silent: () => `has not answered for ${age(w.silent_seconds)}; ${plural(w.calls, "call")} until then`,
      starting: () => "is being started",
    };
    return el("li", {}, el("span", { class: `dot ${w.state === "serves" ? "ok" : "degraded"}`, "aria-hidden": "true" }), `worker ${w.number}: ${joined(words[w.state]())}`);
  }))]);
}

const atWorker = (entry) => entry.worker === undefined ? null : el("span", { class: "quiet worker", title: `worker ${entry.worker}` }, ` [${entry.worker}]`);

/** Sixty minutes as bars: all calls, the failed ones of them on top in red. */
function bars(values, bad, label) {
  const most = Math.max(1, ...values);
  const box = svg("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label });
  box.append(svg("line", { x1: 0, x2: 60, y1: 20, y2: 20 }));
  values.forEach((value, i) => {
    if (!value) return;
    const high = Math.max(1, (19 * value) / most);
    box.append(svg("rect", { x: i + 0.1, width: 0.8, y: 20 - high, height: high, class: bad ? "bad" : "" }));
  });
  return box;
}

/** Sixty minutes as a line, with gaps where there was nothing. */
function line(values, label) {
  const most = Math.max(1, ...values.map((v) => v ?? 0));
  const at = (v) => (19 - (17 * v) / most).toFixed(2);
  let path = "";
  const dots = [];
  values.forEach((v, i) => {
    if (v === null) return;
    const joined = i > 0 && values[i - 1] !== null;
    path += `${joined ? "L" : "M"}${i + 0.5} ${at(v)}`;
    if (!joined && (i === 59 || values[i + 1] === null)) dots.push(svg("rect", { x: i + 0.1, width: 0.8, y: at(v) - 1, height: 2 }));
  });
  return svg("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label },
    svg("line", { x1: 0, x2: 60, y1: 20, y2: 20 }), svg("path", { d: path }), ...dots);
}

function showNumbers(p) {
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const { hour: h, totals: t } = p;
  const [calls, failed] = [sum(h.calls), sum(h.failed)];
  const cards = [
    [number(calls), "calls", `${number(t.calls)} since the start: ${t.answered} answered, ${t.rerouted} rerouted`, bars(h.calls, false, `Calls a minute, ${calls} in the last hour`)],
    [number(failed), "failed", `${number(t.failed)} since the start; ${t.left} given up by apps`, bars(h.failed, true, `Failed calls a minute, ${failed} in the last hour`)],
    [span(h.p50), "to first content (median)", `p95 ${span(h.p95)}`, line(h.p50_ms, `Median time to first content by minute, ${span(h.p50)} over the hour`)],
    [dollars(t.cost), "since the start", `${count(t.tokens.input)} tokens in${t.tokens.cached ? ` (${count(t.tokens.cached)} cached)` : ""}, ${count(t.tokens.output)} out`, null],
  ];
  fill($("numbers"), cards.map((c) => c.slice(0, 3)).concat([h]), () => cards.map(([value, what, more, chart]) =>
    el("div", { class: "number" }, el("b", {}, value), el("div", {}, what), el("div", { class: "quiet" }, more), chart)));
}

function meter(window) {
  const used = window.used ?? (window.status === "allowed" ? 0 : 1);
  const share = Math.min(100, Math.round(used * 100));
  const kind = window.status === "rejected" || share >= 100 ? "bad" : share >= 80 || window.status !== "allowed" ? "warn" : "";
  const rest = window.resets_in === null ? "" : `, anew in ${age(window.resets_in)}`;
  const name = window.models ? `${window.window} (${window.models})` : window.window;
  const told = window.used === null ? window.status : `${share} %`;
  return el("div", { class: "plan" }, el("span", {}, name),
    el("div", { class: "meter", role: "meter", "aria-label": `window ${name} of the plan`, "aria-valuenow": share, "aria-valuemin": 0, "aria-valuemax": 100 },
      el("i", { class: kind, style: { width: `${share}%` } })),
    el("span", { class: "quiet" }, told + rest));
}

const DOTS = { closed: "ok", disabled: "ok", half_open: "degraded", open: "unhealthy", forced_open: "unhealthy" };

function showProviders(p) {
  const unlocked = token !== "";
  fill($("providers"), [p.providers, unlocked], () => p.providers.map((q) => {
    const how = { forced_open: "open", disabled: "disable" }[q.state] ?? "auto";
    const facts = [
      ["to first content", `${span(q.p50_ms)} / ${span(q.p95_ms)}`, "median and p95, since the start"],
      ["failed", `${percent(q.error_share)}`, `${q.failed} of ${q.attempts} attempts since the start`],
      ["attempts", number(q.attempts) + (q.in_flight ? ` (+${q.in_flight})` : ""), "since the start (and under way)"],
      ["tokens in / out", `${count(q.tokens.input)} / ${count(q.tokens.output)}`, q.tokens.cached ? `${count(q.tokens.cached)} of them from the prompt cache` : ""],
      ["cost", dollars(q.cost), q.saved ? `by the price list; the cache saved ${dollars(q.saved)}` : "by the price list"],
    ];
    return el("article", { class: "provider", "aria-label": q.name },
      el("h3", {}, el("span", { class: `dot ${q.cooldown && q.state === "closed" ? "degraded" : DOTS[q.state]}`, "aria-hidden": "true" }), q.name),
      el("p", { class: "words" }, joined(q.words)),
      el("p", { class: "quiet place" }, q.place),
      el("dl", { class: "facts" }, ...facts.map(([what, value, title]) => el("div", { title }, el("dt", {}, what), el("dd", {}, value)))),
      q.last_error ? el("p", { class: "error quiet" }, `Last error ${clock(q.last_error.at)}: `, el("span", { class: "bad" }, q.last_error.words)) : null,
      ...q.plans.flat().map(meter),
      unlocked ? el("div", { class: "row", role: "group", "aria-label": `Circuit of ${q.name}` }, ...HOLDS.map(([word, label, what, done]) =>
        el("button", {
          type: "button", title: `${q.name}: ${what}`, "aria-pressed": String(word === how), "data-key": `${q.name} ${word}`,
          onclick: () => act(`/circuit/${word}/${encodeURIComponent(q.name)}`, `${q.name} ${done}.`),
        }, label))) : null);
  }));
}

const FINE = new Set(["success"]);

/** An attempt as a line of its own: when it began, its first content, its end; how it ended. */
function lane(attempt, whole) {
  const begins = (100 * attempt.started_ms) / whole;
  const ends = attempt.end_ms === null ? 100 : (100 * (attempt.started_ms + attempt.end_ms)) / whole;
  const wide = Math.max(0.5, Math.min(100, ends) - begins);
  const fine = FINE.has(attempt.outcome);
  const waited = attempt.content_ms === null || !attempt.end_ms ? 1 : Math.min(1, attempt.content_ms / attempt.end_ms);
  const why = `${fine ? (attempt.status ?? "") : attempt.words}, ${span(attempt.end_ms)}`;
  const parts = fine && waited < 1
    ? [el("i", { class: "wait", style: { left: `${begins}%`, width: `${wide * waited}%` } }),
       el("i", { style: { left: `${begins + wide * waited}%`, width: `${wide * (1 - waited)}%` } })]
    : [el("i", { class: fine ? "" : "bad", style: { left: `${begins}%`, width: `${wide}%` } })];
  return el("div", { class: "lane", title: attempt.notes.join("; ") },
    el("span", {}, attempt.provider), el("div", { class: "track", "aria-hidden": "true" }, ...parts),
    el("span", { class: fine ? "why" : "why bad" }, why));
}

function showCalls(p) {
  fill($("calls"), p.calls, () => p.calls.length === 0
    ? [el("li", { class: "empty" }, "No call yet. Calls of an app that goes through this proxy appear here.")]
    : p.calls.map((c) => {
      const whole = Math.max(1, c.ms);
      const used = c.attempts.map((a) => a.tokens).filter(Boolean).at(-1);
      const cost = c.attempts.reduce((sum, a) => sum + (a.cost ?? 0), 0);
      const took = [span(c.ms), used ? `${count(used.input)} → ${count(used.output)} tokens` : null, cost ? dollars(cost) : null];
      const to = c.provider === null ? "" : ` → ${c.provider}`;
      const plain = c.result === "answered" && c.attempts.length === 1;
      return el("li", {},
        el("div", { class: "line" }, el("time", {}, clock(c.at)), el("span", { class: `tag ${c.result}` }, c.result === "left" ? "app left" : c.result),
          el("span", { class: "what" }, `${c.route}${c.model ? ` ${c.model}` : ""}${to}`, atWorker(c) ?? ""),
          el("span", { class: "took" }, took.filter(Boolean).join(", "))),
        plain ? null : el("div", { class: "timeline" }, ...c.attempts.map((a) => lane(a, whole)),
          ...c.refused.map((r) => el("div", { class: "lane" }, el("span", {}, r.provider), el("span", { class: "quiet" }, "not asked"), el("span", { class: "why" }, r.reason)))));
    }));
}

function showEvents(p) {
  fill($("events"), p.events, () => p.events.length === 0
    ? [el("li", { class: "empty" }, "Nothing yet.")]
    : p.events.map((e) => el("li", { class: e.level }, el("time", {}, clock(e.at)), el("span", { class: "text" }, joined(e.text), atWorker(e)))));
}

function show() {
  if (picture === null) return;
  showHead(picture);
  showRoutes(picture);
  showWorkers(picture);
  showFleet(picture);
  showNumbers(picture);
  showProviders(picture);
  showCalls(picture);
  showEvents(picture);
}

// --- the stream

function gone(since) {
  document.body.classList.toggle("gone", since !== null);
  $("gone").hidden = since === null;
  if (since === null) return;
  $("gone").textContent = `The proxy has not answered since ${clock(since / 1000)}: what is below is from then. This page comes back by itself.`;
  $("dot").className = "dot gone";
  $("status").className = "state gone";
  $("status").textContent = "gone";
  document.title = "⚠ Sidestep: gone";
}


let lost = null;

function listen() {
  source?.close();
  source = new EventSource("/stream");
  source.onmessage = (event) => {
    heard = Date.now();
    lost = null;
    gone(null);
    picture = JSON.parse(event.data);
    show();
  };
  source.onopen = () => { heard = Date.now(); };
}

setInterval(() => {
  if (source === null) return;
  const silent = source.readyState !== EventSource.OPEN;
  if (silent || Date.now() - heard > SILENT_MS) {
    lost ??= Date.now();
    // A stream that has just ended begins anew by itself: that alone is no absence.
    if (Date.now() - lost > 1500) gone(Math.max(heard, lost - 1500));
    // A browser gives up where it is refused once; this page does not.
    if (source.readyState === EventSource.CLOSED || Date.now() - heard > SILENT_MS) { heard = Date.now(); listen(); }
  }
}, 500);

// --- the controls

let speaking = 0;

function say(text) {
  $("said").textContent = text;
  $("said").hidden = false;
  clearTimeout(speaking);
  speaking = setTimeout(() => { $("said").hidden = true; }, 4000);
}

async function post(path, key) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "x-sidestep-token": key } });
    return [answer.status, (await answer.text()).trim()];
  } catch {
    return [0, "the proxy does not answer"];
  }
}

async function act(path, done) {
  const [status, text] = await post(path, token);
  if (status === 403) { keep(""); show(); }
  const where = text.replace(/^done ?/, ""); // at how many workers
  say(status === 200 ? done + (where ? ` (${where})` : "") : `Not done: ${text}`);
}

function keep(found) {
  token = found;
  try {
    if (found) sessionStorage.setItem(TOKEN, found); else sessionStorage.removeItem(TOKEN);
  } catch { /* without it, it is asked for again */ }
}

$("unlock").onclick = () => {
  if (token) { keep(""); show(); return; }
  $("ask-wrong").hidden = true;
  $("token").value = "";
  $("ask").showModal();
};
$("ask-cancel").onclick = () => $("ask").close();
$("ask-form").onsubmit = async (event) => {
  event.preventDefault();
  const found = $("token").value.trim().replace(/^.*#/, "");
  const [status] = await post("/token", found);
  $("ask-wrong").hidden = status === 200;
  $("ask-wrong").textContent = status === 0 ? "The proxy does not answer." : "This is not the token.";
  if (status !== 200) { $("token").select(); return; }
  keep(found);
  $("ask").close();
  show();
};

async function begin() {
  const given = location.hash.slice(1);
  if (given) history.replaceState(null, "", location.pathname);
  let known = given;
  try { known ||= sessionStorage.getItem(TOKEN) ?? ""; } catch { /* then it is asked for */ }
  if (known) keep((await post("/token", known))[0] === 200 ? known : "");
  listen();
  show();
}

begin();
