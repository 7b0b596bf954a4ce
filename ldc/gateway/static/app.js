// The page: books by the gateway's own push, status once a second. It asks nobody but the gateway that it came from.
//
// Rule 1: a book that cannot be read is shown as lost, at once: its levels are dimmed, its prices and data-* emptied.
// Rule 2: text goes into the page by textContent alone.

import { Ladder } from "/ladder.js";
import { COLUMN_MS, Columns, Heat } from "/heat.js";
import { depthChart, depthData, fit, short, timeChart } from "/charts.js";

const LEVELS = 200;          // levels a side of the shown market
const DEEP_MARKETS_MAX = 6;  // with more markets, those that are not shown come with their best level alone
const HISTORY_MS = 300000, SAMPLE_MS = 250, DEPTH_MS = 150, TIME_MS = 500, TABLE_MS = 250, ROWS = 20;
const RETRY_MS = [300, 600, 1200, 2500, 5000];

const $ = (id) => document.getElementById(id);
const markets = new Map();
const ladder = new Ladder($("ladder")), heat = new Heat($("heat"));
let selected = null, socket = null, tries = 0, colours = {}, depth = null, time = null, ladderMoves = false;
let clockOffset = 0, drawnAt = { depth: 0, time: 0, table: 0 }, isDirty = true, filter = "";

class Market {
  constructor(name) {
    Object.assign(this, { name, state: "UNKNOWN", cause: null, message: null, book: null, status: null, group: 0, view: null });
    this.decimals = { price: 0, quantity: 0 };
    this.times = []; this.mids = []; this.spreads = []; this.rates = [];
    this.columns = new Columns();
    this.sampledAt = 0; this.openMid = null; this.since = null;
  }

  take(message) {
    this.state = message.state;
    this.cause = message.cause ?? null;
    this.book = message.state === "SYNCHRONIZED" ? message : null;
    this.view = null;
    if (!this.book) return;
    for (const side of [message.bids, message.asks]) {
      for (const [price, quantity] of side.slice(0, 40)) {
        this.decimals.price = Math.max(this.decimals.price, decimalsOf(price));
        this.decimals.quantity = Math.max(this.decimals.quantity, Math.min(5, decimalsOf(quantity)));
      }
    }
  }

  get numbers() { // levels as numbers, once for each message
    if (!this.view && this.book) {
      const read = (side) => side.map(([price, quantity]) => [+price, +quantity]);
      this.view = { bids: read(this.book.bids), asks: read(this.book.asks) };
    }
    return this.view;
  }

  get mid() {
    const bid = this.book?.bids[0], ask = this.book?.asks[0];
    return bid && ask ? (+bid[0] + +ask[0]) / 2 : null;
  }

  sample(now) { // for what is drawn over time
    const mid = this.mid;
    this.openMid ??= mid;
    this.times.push(now / 1000);
    this.mids.push(mid);
    this.spreads.push(mid === null ? null : +this.book.asks[0][0] - +this.book.bids[0][0]);
    while (this.times[0] < (now - HISTORY_MS) / 1000) { this.times.shift(); this.mids.shift(); this.spreads.shift(); }
    if (now - this.sampledAt >= COLUMN_MS - 20) {
      this.sampledAt = now;
      const view = this.numbers;
      if (view && view.bids.length > 1) this.columns.add(view.bids, view.asks, horizonsOf(this.book), now);
      else this.columns.gap(now);
    }
  }
}

function decimalsOf(text) {
  const point = text.indexOf(".");
  return point < 0 ? 0 : text.replace(/0+$/, "").length - point - 1;
}

function horizonsOf(book) {
  return [book.bidHorizon, book.askHorizon].filter((price) => price !== undefined).map(Number);
}

// ------------------------------------------------------------------------------------------------ the gateway

async function poll() {
  try {
    const reply = await fetch("/ldc/status", { cache: "no-store" });
    if (reply.status === 401) { if (!$("login").open) $("login").showModal(); return; }
    if (!reply.ok) return;
    takeStatus(await reply.json());
    if (!socket) connect();
  } catch { /* the link says so */ } finally { setTimeout(poll, 1000); }
}

function takeStatus(status) {
  $("exchange").textContent = status.exchange;
  clockOffset = status.time_ms - Date.now();
  const names = status.markets.map((each) => each.market.toUpperCase());
  for (const each of status.markets) {
    const name = each.market.toUpperCase();
    if (!markets.has(name)) markets.set(name, new Market(name));
    const market = markets.get(name), before = market.status;
    market.status = each;
    if (before) {
      const seconds = (status.time_ms - market.statusAt) / 1000;
      if (seconds > 0.2) market.rates.push((each.counters.updates_applied - before.counters.updates_applied) / seconds);
      if (market.rates.length > 240) market.rates.shift();
      for (const [cause, count] of Object.entries(each.resyncs)) {
        if (count > (before.resyncs[cause] ?? 0)) note(name, `out of sync: ${cause}`, "bad");
      }
      if (each.is_synchronized && !before.is_synchronized) note(name, "exact again", "good");
    }
    market.statusAt = status.time_ms;
  }
  const gone = [...markets.keys()].filter((name) => !names.includes(name));
  gone.forEach((name) => markets.delete(name));
  if (!markets.has(selected)) select(names.find((name) => name === location.hash.slice(1)) ?? names[0] ?? null);
  subscribe();
  tabs();
  isDirty = true;
}

let subscribed = "";
function subscribe() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const deep = markets.size <= DEEP_MARKETS_MAX ? [...markets.keys()] : [selected].filter(Boolean);
  const wanted = JSON.stringify([deep, [...markets.keys()]]);
  if (wanted === subscribed) return;
  subscribed = wanted;
  const flat = [...markets.keys()].filter((name) => !deep.includes(name)).slice(0, 199);
  if (flat.length) socket.send(JSON.stringify({ subscribe: flat, levels: 1 }));
  if (deep.length) socket.send(JSON.stringify({ subscribe: deep, levels: LEVELS }));
}

function connect() {
  subscribed = "";
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ldc/ws`);
  socket.onopen = () => { tries = 0; link("live", true); banner(null); subscribe(); };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data), market = markets.get(message.market);
    if (!market) return;
    const was = market.state;
    market.take(message);
    isDirty = true;
    if (message.market === selected) { describe(); if (was !== message.state) table(true); }
    if (was !== message.state) tabs();
  };
  socket.onclose = () => {
    socket = null;
    for (const market of markets.values()) market.take({ state: "NO_CONNECTION", cause: "the page has no connection to the gateway" });
    const wait = RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)];
    link("reconnecting", false);
    banner("The connection to the gateway is lost. The page reconnects by itself.");
    describe(); tabs(); isDirty = true;
    setTimeout(() => { if (!socket) connect(); }, wait);
  };
}

// ------------------------------------------------------------------------------------------------ what is shown

function link(text, isGood) {
  $("link").className = `pill ${isGood ? "good" : "bad"}`;
  $("link").lastElementChild.textContent = text;
}

function banner(text) {
  $("banner").hidden = text === null;
  $("banner").textContent = text ?? "";
}

function note(market, text, kind) {
  const item = document.createElement("li"), at = document.createElement("time"), what = document.createElement("span");
  at.textContent = new Date().toLocaleTimeString("en-GB");
  what.textContent = `${market} ${text}`;
  what.className = kind;
  item.append(at, what);
  $("events").prepend(item);
  while ($("events").children.length > 30) $("events").lastElementChild.remove();
}

function select(name) {
  selected = name;
  $("name").textContent = name ?? "no market";
  document.title = name ? `${name} · ldc` : "ldc";
  if (name) history.replaceState(null, "", `#${name}`);
  charts();
  subscribe();
  tabs();
  describe();
  table(true);
  isDirty = true;
}

// The one element that says what is shown: for tests, for screen readers, for scripts of users.
function describe() {
  const market = markets.get(selected), book = market?.book, data = $("book").dataset;
  data.market = selected ?? "";
  data.state = market?.state ?? "";
  data.id = book ? book.id : "";
  data.bestBid = book?.bids[0]?.[0] ?? "";
  data.bestAsk = book?.asks[0]?.[0] ?? "";
  $("book").classList.toggle("lost", Boolean(market) && !book);
  const pill = $("state"), isGood = Boolean(book);
  pill.className = `pill ${isGood ? "good" : "bad"}`;
  pill.lastElementChild.textContent = isGood ? "exact" : (market?.cause ?? market?.state ?? "").toString().slice(0, 60);
}

function tabs() {
  const shown = [...markets.values()].filter((market) => market.name.includes(filter));
  const nav = $("markets");
  while (nav.children.length > shown.length) nav.lastElementChild.remove();
  while (nav.children.length < shown.length) nav.append(tab());
  shown.forEach((market, at) => {
    const button = nav.children[at], { price, quantity: _q } = market.decimals;
    button.dataset.name = market.name;
    button.setAttribute("aria-selected", market.name === selected);
    button.tabIndex = market.name === selected ? 0 : -1;
    button.className = market.book ? "good" : "bad";
    button.children[0].textContent = market.name;
    const [mid, move] = button.children[2].children;
    mid.textContent = market.mid === null ? "–" : market.mid.toFixed(price);
    const change = market.mid && market.openMid ? (market.mid / market.openMid - 1) * 100 : 0;
    move.textContent = `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(3)} %`;
    move.className = `num ${change >= 0 ? "up" : "down"}`;
    button.setAttribute("aria-label", `${market.name}, ${market.book ? "exact" : market.cause ?? market.state}, ${mid.textContent}`);
  });
}

function tab() {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("role", "tab");
  const price = document.createElement("span");
  price.className = "price";
  price.append(document.createElement("span"), document.createElement("span"));
  price.firstElementChild.className = "num";
  const dot = document.createElement("span");
  dot.className = "dot";
  button.append(document.createElement("b"), dot, price);
  button.onclick = () => select(button.dataset.name);
  return button;
}

function table(now) {
  const market = markets.get(selected), body = $("levels").tBodies[0], book = market?.book;
  if (!now && performance.now() - drawnAt.table < TABLE_MS) return;
  drawnAt.table = performance.now();
  $("levels").dataset.id = book ? book.id : "";
  const rows = book ? [...book.bids.slice(0, ROWS).map((level) => ["bid", ...level]), ...book.asks.slice(0, ROWS).map((level) => ["ask", ...level])] : [];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) { const row = body.insertRow(); row.insertCell(); row.insertCell(); row.insertCell(); }
  rows.forEach((cells, at) => cells.forEach((text, column) => {
    const cell = body.rows[at].cells[column];
    if (cell.textContent !== text) cell.textContent = text;
  }));
}

// ------------------------------------------------------------------------------------------------ drawing

function charts() {
  depth?.destroy();
  time?.destroy();
  const market = markets.get(selected);
  drawnAt = { depth: 0, time: 0, table: 0 };
  depth = market ? depthChart($("depth"), colours, market.decimals) : null;
  time = market ? timeChart($("time"), colours, market.decimals) : null;
  groups();
}

function steps(market) {
  return [0, 1, 2, 3].map((power) => 10 ** (power - market.decimals.price));
}

function groups() {
  const market = markets.get(selected);
  $("group").replaceChildren(...(market ? steps(market) : []).map((step, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = step >= 1 ? step.toFixed(0) : step.toFixed(Math.max(0, market.decimals.price - at));
    button.setAttribute("aria-pressed", market.group === at);
    button.onclick = () => { market.group = at; groups(); isDirty = true; };
    return button;
  }));
  $("group").dataset.decimals = market?.decimals.price ?? "";
}

// The levels in groups of a step. The last one may be cut by the end of what is known, so it is left out.
function grouped(levels, step, round) {
  const groups = new Map();
  for (const [price, quantity] of levels) {
    const at = round(+(price / step).toFixed(6));
    groups.set(at, (groups.get(at) ?? 0) + quantity);
  }
  const list = [...groups].map(([at, quantity]) => [at * step, quantity]);
  if (list.length > 1) list.pop();
  return list;
}

function frame(now) {
  const market = markets.get(selected);
  if (isDirty) {
    isDirty = false;
    headline(market);
    const view = market?.numbers;
    if (view) {
      if ($("group").dataset.decimals !== String(market.decimals.price)) charts();
      const step = steps(market)[market.group], [bids, asks] = market.group
        ? [grouped(view.bids, step, Math.floor), grouped(view.asks, step, Math.ceil)] : [view.bids, view.asks];
      const priceDecimals = Math.max(0, market.decimals.price - market.group), spread = view.asks[0]?.[0] - view.bids[0]?.[0];
      const relative = market.mid ? `${(spread / market.mid * 1e4).toFixed(3)} bp` : "";
      ladderMoves = ladder.show({
        bids, asks, priceDecimals, quantityDecimals: market.decimals.quantity, totalDecimals: Math.min(3, market.decimals.quantity),
        spread: `${spread.toFixed(market.decimals.price)}   ${relative}`,
      }, colours);
    }
    table(false);
  } else if (ladderMoves) ladderMoves = ladder.draw(now);
  const view = market?.numbers;
  if (view && depth && now - drawnAt.depth > DEPTH_MS) {
    drawnAt.depth = now;
    fit(depth, $("depth"));
    const reach = Math.min(view.bids.length, view.asks.length);
    depth.horizons = horizonsOf(market.book);
    depth.setData(depthData(view.bids.slice(0, reach), view.asks.slice(0, reach)));
  }
  if (market && time && now - drawnAt.time > TIME_MS) {
    drawnAt.time = now;
    fit(time, $("time"));
    time.setData([market.times, market.mids, market.spreads]);
    heat.show(market.columns, market.decimals.price);
    facts(market);
  }
  requestAnimationFrame(frame);
}

function headline(market) {
  const mid = market?.mid, decimals = market?.decimals;
  $("mid").textContent = mid ? mid.toFixed(decimals.price) : "–";
  const change = mid && market.openMid ? mid - market.openMid : 0;
  $("move").textContent = mid ? `${change >= 0 ? "▲" : "▼"} ${Math.abs(change).toFixed(decimals.price)}` : "";
  $("move").className = `num ${change >= 0 ? "up" : "down"}`;
  for (const [id, level] of [["bid", market?.book?.bids[0]], ["ask", market?.book?.asks[0]]]) {
    $(id).textContent = level ? (+level[0]).toFixed(decimals.price) : "–";
    $(`${id}-size`).textContent = level ? (+level[1]).toFixed(decimals.quantity) : "";
  }
}

function facts(market) {
  const { status, book, decimals } = market, view = market.numbers, rows = [];
  const sum = (levels) => levels.slice(0, 20).reduce((all, [, quantity]) => all + quantity, 0);
  if (book && view) {
    const [bids, asks] = [sum(view.bids), sum(view.asks)];
    rows.push(["Update id", book.id], ["Imbalance, 20 levels", `${((bids - asks) / (bids + asks) * 100).toFixed(1)} %`]);
    rows.push(["Age", span(Date.now() + clockOffset - book.received_ns / 1e6)]);
    if (book.E && Math.abs(book.received_ns / 1e6 - book.E) < 3600000) rows.push(["Exchange to ldc", span(book.received_ns / 1e6 - book.E)]);
    for (const [name, price] of [["Bids known to", book.bidHorizon], ["Asks known to", book.askHorizon]]) {
      rows.push([name, price === undefined ? "the end" : (+price).toFixed(decimals.price)]);
      if (price !== undefined) rows.push(["… from mid", `${((price / market.mid - 1) * 100).toFixed(2)} %`]);
    }
  }
  if (status) {
    rows.push(["Bids, asks held", `${status.bid_count}, ${status.ask_count}`]);
    rows.push(["State", status.state.toLowerCase()], ["Since", new Date(status.state_since * 1000).toLocaleTimeString("en-GB")]);
    const lost = Object.entries(status.resyncs).map(([cause, count]) => `${cause} ${count}`).join(", ");
    rows.push(["Resyncs", lost || "none"], ["Reconnects", status.reconnects], ["Connections", status.connections.length]);
    $("rate").textContent = (market.rates.at(-1) ?? 0).toFixed(1);
    bars($("rates"), market.rates);
  }
  const list = $("facts");
  while (list.children.length > rows.length * 2) list.lastElementChild.remove();
  while (list.children.length < rows.length * 2) list.append(document.createElement(list.children.length % 2 ? "dd" : "dt"));
  rows.flat().forEach((text, at) => { if (list.children[at].textContent !== String(text)) list.children[at].textContent = text; });
  $("depth-note").textContent = view ? `${view.bids.length} + ${view.asks.length} levels` : "";
  $("time-note").textContent = market.times.length ? `${((market.times.at(-1) - market.times[0]) / 60).toFixed(1)} min` : "";
  $("heat-note").textContent = heat.zoom === 1 ? "" : `zoom ${heat.zoom.toFixed(1)}`;
}

function span(ms) {
  if (ms < 0) return "0 ms";
  return ms < 10000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function bars(canvas, values) {
  const g = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  g.scale(ratio, ratio);
  const most = Math.max(...values, 1), step = 3, shown = values.slice(-Math.floor((width - 26) / step));
  g.fillStyle = colours.accent;
  shown.forEach((value, at) => {
    const tall = Math.max(1, (height - 6) * value / most);
    g.fillRect(width - 26 - (shown.length - at) * step, height - tall, step - 1, tall);
  });
  g.fillStyle = colours.muted;
  g.font = "10px system-ui, 'DejaVu Sans', sans-serif";
  g.textAlign = "right";
  g.fillText(short(most), width, 9);
  g.fillText("0", width, height - 1);
}

// ------------------------------------------------------------------------------------------------ theme, keys, token

function theme(name) {
  document.documentElement.dataset.theme = name;
  const style = getComputedStyle(document.documentElement), read = (key) => style.getPropertyValue(`--${key}`).trim();
  colours = { bid: read("bid"), ask: read("ask"), bidSoft: read("bid-soft"), askSoft: read("ask-soft"), text: read("text"),
    muted: read("muted"), line: read("line"), accent: read("accent"), warn: read("warn"), panel: read("panel"), dark: name !== "light" };
  heat.setColours(colours);
  charts();
  isDirty = true;
}

function stored(key, value) {
  try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
}

function toggleTheme() {
  const name = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  stored("ldc-theme", name);
  theme(name);
}

function step(by) {
  const names = [...markets.keys()];
  if (names.length) select(names[(names.indexOf(selected) + by + names.length) % names.length]);
}

const keys = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), t: toggleTheme, "?": () => $("keys").showModal(),
  "/": () => $("search").focus(), "+": () => { heat.zoom = Math.min(16, heat.zoom * 1.5); }, "-": () => { heat.zoom = Math.max(0.5, heat.zoom / 1.5); },
  g: () => { const market = markets.get(selected); if (market) { market.group = (market.group + 1) % 4; groups(); isDirty = true; } },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target === $("search")) {
    if (event.key === "Escape") { $("search").value = filter = ""; $("search").blur(); tabs(); }
    if (event.key === "Enter") { const first = $("markets").firstElementChild; if (first) select(first.dataset.name); $("search").value = filter = ""; $("search").blur(); tabs(); }
    return;
  }
  const number = "123456789".indexOf(event.key);
  const action = number >= 0 ? () => { const name = [...markets.keys()][number]; if (name) select(name); } : keys[event.key];
  if (action) { event.preventDefault(); action(); }
});

$("search").addEventListener("input", () => { filter = $("search").value.trim().toUpperCase(); tabs(); });
$("theme").onclick = toggleTheme;
$("help").onclick = () => $("keys").showModal();
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const reply = await fetch("/ldc/session", { method: "POST", headers: { Authorization: `Bearer ${$("token").value}` } });
  $("login-error").textContent = reply.ok ? "" : "That is not the token.";
  if (reply.ok) { $("token").value = ""; $("login").close(); }
});
window.addEventListener("resize", () => { isDirty = true; });

setInterval(() => {
  const now = Date.now();
  for (const market of markets.values()) if (market.status) market.sample(now);
  tabs();
}, SAMPLE_MS);
theme(stored("ldc-theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
poll();
requestAnimationFrame(frame);
