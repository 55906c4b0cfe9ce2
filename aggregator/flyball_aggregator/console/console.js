// The page: takes one picture a second from /v1/events and draws it. No library, nothing from elsewhere.
"use strict";

const HISTORY_S = 600;
const seconds = [];
const byId = (id) => document.getElementById(id);

function watts(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(digits)} MW`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(digits)} kW`;
  return `${Math.round(value)} W`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(part, whole) {
  if (part === null || part === undefined || !whole) return 0;
  return Math.max(0, Math.min(100, (100 * part) / whole));
}

function fillBar(bar, drawn, committed, limit) {
  const scale = Math.max(limit, committed || 0, drawn || 0);
  bar.querySelector(".committed").style.width = `${percent(committed, scale)}%`;
  bar.querySelector(".drawn").style.width = `${percent(drawn, scale)}%`;
  const mark = bar.querySelector(".mark");
  mark.style.display = scale > limit ? "block" : "none";
  mark.style.left = `${percent(limit, scale)}%`;
  bar.classList.toggle("is-over", drawn !== null && drawn > limit);
}

function makeBar() {
  const bar = element("div", "bar");
  bar.append(element("i", "committed"), element("i", "drawn"), element("b", "mark"));
  return bar;
}

function showStatus(status) {
  byId("site").textContent = status.site;
  byId("simulated").hidden = !status.is_simulated;
  byId("draw").textContent = watts(status.draw_watts);
  byId("limit").textContent = watts(status.limit_watts);
  byId("headroom").textContent = watts(status.headroom_watts);
  byId("committed").textContent = watts(status.committed_watts);
  const from = status.draw_source === "meter" ? "draw at the meter" : "draw modelled from GPU power";
  byId("source").textContent = ` ${from}; ${watts(status.reserve_watts)} held in reserve`;
  fillBar(byId("site-bar"), status.draw_watts, status.committed_watts, status.limit_watts);
  const broker = status.broker_connected ? "broker connected" : `broker away: ${status.broker_error}`;
  byId("foot").textContent = `${status.hosts_online} of ${status.hosts} hosts heard, ${status.hosts_enforcing} led, ` +
    `${status.gpus} GPUs. Epoch ${status.epoch}, ${status.leases_sent} leases sent, ${broker}. flyball ${status.version}`;
  document.title = `${watts(status.draw_watts, 1)} of ${watts(status.limit_watts, 1)} · flyball`;
}

function remember(status) {
  seconds.push({ time: Date.parse(status.time) / 1000, draw: status.draw_watts, limit: status.limit_watts,
    committed: status.committed_watts });
  const oldest = seconds[seconds.length - 1].time - HISTORY_S;
  while (seconds.length && seconds[0].time < oldest) seconds.shift();
}

function drawHistory() {
  const canvas = byId("history");
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = 150;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  if (seconds.length < 2) return;
  const colour = (name) => {
    const probe = byId("history").parentElement.querySelector(`.key.${name}`);
    return getComputedStyle(probe).backgroundColor;
  };
  const end = seconds[seconds.length - 1].time;
  const span = Math.max(60, Math.min(HISTORY_S, end - seconds[0].time));
  const top = 1.06 * Math.max(...seconds.map((point) => Math.max(point.limit, point.draw || 0, point.committed)));
  const x = (time) => width - ((end - time) / span) * width;
  const y = (value) => height - (value / top) * (height - 4);
  area(pen, "committed", colour("committed"), x, y, height, 0.55);
  area(pen, "draw", colour("drawn"), x, y, height, 0.9);
  line(pen, "limit", colour("limit"), x, y);
}

function area(pen, name, colour, x, y, floor, opacity) {
  pen.globalAlpha = opacity;
  pen.fillStyle = colour;
  let start = null, last = null;
  const close = () => {
    if (start === null) return;
    pen.lineTo(last, floor);
    pen.lineTo(start, floor);
    pen.fill();
    start = null;
  };
  for (const point of seconds) {
    if (point[name] === null) { close(); continue; }
    last = x(point.time);
    if (start === null) { start = last; pen.beginPath(); pen.moveTo(last, y(point[name])); }
    else pen.lineTo(last, y(point[name]));
  }
  close();
  pen.globalAlpha = 1;
}

function line(pen, name, colour, x, y) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.beginPath();
  seconds.forEach((point, index) => (index ? pen.lineTo(x(point.time), y(point[name])) : pen.moveTo(x(point.time), y(point[name]))));
  pen.stroke();
}

function showRows(rows) {
  const body = byId("rows").tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, index) => {
    const line = body.rows[index] || makeRow(body);
    const [name, use, draw, committed, limit, slack] = line.cells;
    name.textContent = row.row;
    if (row.is_binding) name.append(element("span", "tag is-warn", "full"));
    if (row.is_in_descent) name.append(element("span", "tag is-bad", "in descent"));
    if (row.is_short) name.append(element("span", "tag is-bad", "minima do not fit"));
    if (row.limit_source !== "rating") name.append(element("span", "tag", row.limit_source));
    fillBar(use.firstChild, row.draw_watts, row.committed_watts, row.limit_watts);
    draw.textContent = watts(row.draw_watts);
    committed.textContent = watts(row.committed_watts);
    limit.textContent = watts(row.limit_watts);
    slack.textContent = watts(row.slack_watts);
  });
}

function makeRow(body) {
  const line = body.insertRow();
  for (let cell = 0; cell < 6; cell += 1) line.insertCell();
  line.cells[1].className = "wide";
  line.cells[1].append(makeBar());
  return line;
}

function showHealth(health) {
  const card = byId("health");
  card.hidden = !health || (!health.incidents.length && health.mode === "normal");
  if (card.hidden) return;
  const out = health.hosts_out.length ? `; out of work: ${health.hosts_out.join(", ")}` : "";
  const why = health.mode === "normal" ? "" : ` (${health.mode_why})`;
  byId("health-mode").textContent = `${health.open_incidents} open, mode ${health.mode}${why}${out}`;
  const body = byId("incidents").tBodies[0];
  body.replaceChildren(...health.incidents.map((incident) => {
    const line = element("tr");
    line.append(element("td", "", incident.name), element("td", "", incident.entity),
      element("td", "", incident.codes.join(", ")), element("td", "", incident.state));
    if (incident.is_injected) line.firstChild.append(element("span", "tag", "drill"));
    return line;
  }));
}

function showHosts(picture) {
  const place = byId("hosts");
  const known = new Map([...place.children].map((card) => [card.dataset.host, card]));
  for (const host of picture.hosts) {
    const card = known.get(host.host) || makeHost(place, host.host);
    known.delete(host.host);
    showHost(card, host);
  }
  for (const card of known.values()) card.remove();
  byId("left-out").hidden = !picture.hosts_left_out;
  byId("left-out").textContent = `${picture.hosts_left_out} more hosts: see /v1/hosts`;
}

function makeHost(place, name) {
  const card = element("article", "card host");
  card.dataset.host = name;
  const head = element("header");
  head.append(element("h3", "", name), element("span", "tag"), element("span", "tag led"), element("span", "sum"));
  card.append(head, element("p", "why"), element("div", "gpus"));
  place.append(card);
  return card;
}

function showHost(card, host) {
  const [online, led] = card.querySelectorAll(".tag");
  const heard = host.heard_seconds_ago === null ? "not heard yet" : `silent for ${Math.round(host.heard_seconds_ago)} s`;
  online.textContent = host.is_online ? "online" : heard;
  online.className = `tag ${host.is_online ? "is-good" : "is-bad"}`;
  led.textContent = host.is_led ? (host.is_gated ? "gated" : "leased") : "not led";
  led.className = `tag led ${host.is_led && !host.is_gated ? "" : "is-warn"}`;
  card.querySelector(".sum").textContent = `${watts(host.power_watts)} of ${watts(host.lease_watts)}`;
  card.querySelector(".why").textContent = host.why;
  const place = card.querySelector(".gpus");
  while (place.children.length > host.gpus.length) place.lastChild.remove();
  host.gpus.forEach((gpu, index) => showGpu(place.children[index] || makeGpu(place), gpu, host));
}

function makeGpu(place) {
  const box = element("div", "gpu");
  box.append(element("div", "fill"), element("div", "cap"), element("div", "text"));
  box.tabIndex = 0;
  place.append(box);
  return box;
}

function showGpu(box, gpu, host) {
  const [fill, cap, text] = box.children;
  const top = gpu.maximum_watts || 1;
  fill.style.height = `${percent(gpu.power_watts, top)}%`;
  cap.style.bottom = `calc(${percent(gpu.cap_watts, top)}% - 1px)`;
  cap.style.visibility = gpu.cap_watts === null ? "hidden" : "visible";
  text.textContent = gpu.power_watts === null ? "?" : Math.round(gpu.power_watts);
  box.classList.toggle("is-unknown", gpu.power_watts === null);
  box.classList.toggle("is-ill", gpu.health !== "ok" && gpu.health !== "unknown");
  const held = gpu.throttled_ratio ? `, held back ${Math.round(100 * gpu.throttled_ratio)} % of the time` : "";
  box.title = `${host.host} GPU ${gpu.gpu}: ${watts(gpu.power_watts)}, cap ${watts(gpu.cap_watts)}${held}, ${gpu.health}. ${host.why}`;
  box.setAttribute("aria-label", box.title);
}

function show(picture) {
  showStatus(picture.status);
  if (picture.status.limit_watts === undefined) return;
  remember(picture.status);
  drawHistory();
  showRows(picture.rows);
  showHosts(picture);
  showHealth(picture.health);
}

function setLink(className, text) {
  byId("link").className = `link ${className}`;
  byId("link").textContent = text;
}

function watch() {
  const source = new EventSource("/v1/events");
  let lastAt = Date.now();
  source.addEventListener("picture", (event) => {
    lastAt = Date.now();
    setLink("is-live", "live");
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => setLink("is-lost", "no answer from the aggregator; trying again"));
  setInterval(() => {
    const quiet = Math.round((Date.now() - lastAt) / 1000);
    if (quiet >= 4) setLink("is-lost", `nothing heard for ${quiet} s: what you see is old`);
  }, 1000);
}

async function loadHistory() {
  try {
    const answer = await fetch("/v1/power");
    const past = (await answer.json()).power;
    seconds.unshift(...past.map((second) => ({ time: second.time_s, draw: second.draw_w, limit: second.limit_w,
      committed: second.committed_w + second.unmanaged_w })));
  } catch { /* the stream fills it */ }
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = getComputedStyle(root).colorScheme === "dark" ||
    (root.style.colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = isDark ? "light" : "dark";
  try { localStorage.setItem("flyball-theme", root.style.colorScheme); } catch { /* private mode */ }
  drawHistory();
});
try { document.documentElement.style.colorScheme = localStorage.getItem("flyball-theme") || ""; } catch { /* private mode */ }
window.addEventListener("resize", drawHistory);
loadHistory().then(async () => {
  try { show(await (await fetch("/v1/picture")).json()); } catch { /* the stream tells */ }
  watch();
});
