// The reading page. It holds texts, pictures and this reader's own answers, nothing else; an answer stays in
// localStorage, each under a key of its own, until the server has said that it is on the disk.
"use strict";

const el = (id) => document.getElementById(id);
const base = location.pathname.replace(/\/+$/, "");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const view = { zoom: 1, x: 0, y: 0, level: 128, width: 256, cross: null };
const clock = { spent: 0, since: null };
const panels = []; // { canvas, source, pixels } of the item on the screen
const fetched = new Map(); // item id -> promise of its pictures
let study = null, at = 0, draft = null, shown = null, side = "a", flushing = false;
let plain = null, hidden = false; // the picture under both segmentations, and whether it is shown in their place

// ---- answers: kept here until acknowledged ----
const prefix = () => `understudy-reading/${study.study}/${study.reader}/`;
const keys = () => Object.keys(localStorage).filter((key) => key.startsWith(prefix()));
const pending = () => keys().map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) })).sort((a, b) => a.t - b.t);

function keep(answer) { // false if this browser has no room, or may not keep anything
  const waiting = pending(), before = waiting.length ? waiting[waiting.length - 1].t : 0;
  const stamp = Math.max(Date.now(), before + 1, (keep.last || 0) + 1); // in order, also where the clock was set back
  keep.last = stamp;
  try { localStorage.setItem(prefix() + answer.nonce, JSON.stringify({ t: stamp, answer })); } catch { return false; }
  return true;
}

async function flush() {
  if (flushing) return;
  flushing = true;
  for (let wait = 500, queue = pending(); queue.length; queue = pending()) {
    showSaved(queue.length, wait > 500 ? showSaved.why : "");
    const { key, answer } = queue[0];
    let status = 0;
    try {
      const reply = await fetch(`${base}/answers`, { method: "POST", body: JSON.stringify(answer),
        headers: { "Content-Type": "application/json" }, signal: AbortSignal.timeout(15000) });
      status = reply.status;
      if (status === 200 && (await reply.json()).stored !== answer.nonce) status = 0;
    } catch { status = 0; }
    if (status === 200) { localStorage.removeItem(key); wait = 500; continue; }
    if (status === 404) { trouble("Answers that were not sent yet are kept in this browser; a new link in this browser sends them."); break; }
    if (status === 409 || status === 422) { trouble("The server does not take an answer that is kept in this browser. Please call the person who runs the study."); break; }
    showSaved(queue.length, status ? "server cannot store" : "server not reached");
    await sleep(wait);
    wait = Math.min(wait * 2, 8000);
  }
  flushing = false;
  showSaved(pending().length);
}

function showSaved(count, late = "") {
  showSaved.why = late;
  const wait = count === 1 ? "1 answer waits" : `${count} answers wait`;
  el("saved").textContent = count === 0 ? "saved" : late ? `${late} · ${count} kept here` : "saving …";
  el("saved").classList.toggle("late", count > 0 && late !== "");
  document.body.dataset.pending = count;
  el("pause-saved").textContent = count ? `${wait} for the server (${late || "saving …"}), kept in this browser.` : "Every answer is stored.";
  el("end-text").textContent = count ? `${wait} for the server${late ? ` (${late})` : ""}. Please leave this window open.`
    : `All ${study.total} answers are stored. You may close this window.`;
}

// ---- time that the item was visible ----
const running = () => shown !== null && !document.hidden && !document.querySelector("dialog[open]:not(#comment-box)");
function tick() {
  const now = performance.now();
  if (clock.since !== null) clock.spent += now - clock.since;
  clock.since = running() ? now : null;
}

// ---- pictures ----
function pictures(item) {
  if (!fetched.has(item.id)) fetched.set(item.id, Promise.all(item.labels.map((_, n) => picture(item.id, n))));
  return fetched.get(item.id);
}

async function picture(id, n) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      const reply = await fetch(`${base}/items/${id}/${n}`, { signal: AbortSignal.timeout(15000) });
      if (reply.status === 200) {
        const map = await createImageBitmap(await reply.blob());
        const source = new OffscreenCanvas(map.width, map.height);
        const pen = source.getContext("2d", { willReadFrequently: true });
        pen.drawImage(map, 0, 0);
        return { source, pixels: pen.getImageData(0, 0, map.width, map.height) };
      }
      if (reply.status === 404) trouble("The pictures cannot be read with this link.");
    } catch { /* the server is away: ask again */ }
    await sleep(wait);
  }
}

function lay() {
  if (!panels.length || !panels[0].pixels) return;
  const box = el("viewer").getBoundingClientRect(), gap = 2;
  const aspect = panels[0].pixels.width / panels[0].pixels.height;
  let best = { w: 0 };
  for (let cols = 1; cols <= panels.length; cols++) {
    const rows = Math.ceil(panels.length / cols);
    const w = Math.min((box.width - gap * (cols - 1)) / cols, ((box.height - gap * (rows - 1)) / rows) * aspect);
    if (w > best.w) best = { w: Math.floor(w), cols };
  }
  const h = Math.floor(best.w / aspect), ratio = window.devicePixelRatio || 1;
  el("grid").style.gridTemplateColumns = `repeat(${best.cols}, ${best.w}px)`;
  el("grid").style.gridAutoRows = `${h}px`;
  for (const { canvas } of panels) { canvas.width = Math.round(best.w * ratio); canvas.height = Math.round(h * ratio); }
  draw();
}

function level() {
  const low = view.level - view.width / 2, table = new Uint8ClampedArray(256);
  for (let v = 0; v < 256; v++) table[v] = ((v - low) / view.width) * 255;
  for (const { source, pixels } of plain ? [...panels, plain] : panels) {
    if (!pixels) continue;
    const out = new ImageData(pixels.width, pixels.height), from = pixels.data, to = out.data;
    const under = plain && pixels !== plain.pixels ? plain.pixels.data : null;
    for (let i = 0; i < from.length; i++) { // colours stay as they are: the window is for the picture under them
      to[i] = i % 4 === 3 ? 255 : under ? table[under[i]] + from[i] - under[i] : table[from[i]];
    }
    source.getContext("2d").putImageData(out, 0, 0);
  }
}

function draw() {
  for (const { canvas, source: own } of panels) {
    const source = own && hidden && plain ? plain.source : own;
    const pen = canvas.getContext("2d"), w = canvas.width, h = canvas.height;
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, w, h);
    if (!source) continue;
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    const size = w * view.zoom, tall = h * view.zoom; // x, y: of the picture's centre, as a share of the panel
    pen.drawImage(source, w / 2 - size / 2 + view.x * w, h / 2 - tall / 2 + view.y * h, size, tall);
    if (view.cross && view.cross.on !== canvas && panels.length > 1) {
      const x = view.cross.x * w, y = view.cross.y * h;
      pen.strokeStyle = "#ffd54a";
      pen.lineWidth = Math.max(1, w / 500);
      pen.beginPath();
      pen.moveTo(x - 9, y); pen.lineTo(x - 3, y); pen.moveTo(x + 3, y); pen.lineTo(x + 9, y);
      pen.moveTo(x, y - 9); pen.lineTo(x, y - 3); pen.moveTo(x, y + 3); pen.lineTo(x, y + 9);
      pen.stroke();
    }
  }
  el("window").textContent = `W ${Math.round(view.width)} · L ${Math.round(view.level)} · Zoom ${view.zoom.toFixed(1)}×`;
}

function outlines() { if (plain) { hidden = !hidden; el("outlines").setAttribute("aria-pressed", String(hidden)); draw(); } }

function reset() { Object.assign(view, { zoom: 1, x: 0, y: 0, level: 128, width: 256 }); level(); draw(); }

function adjust(width, middle) {
  view.width = Math.min(512, Math.max(4, view.width + width));
  view.level = Math.min(320, Math.max(-64, view.level + middle));
  level(); draw();
}

function zoom(factor, x = 0.5, y = 0.5) { // the point under the mouse stays where it is
  const next = Math.min(12, Math.max(1, view.zoom * factor)), share = next / view.zoom;
  view.x = (x - 0.5) - (x - 0.5 - view.x) * share;
  view.y = (y - 0.5) - (y - 0.5 - view.y) * share;
  view.zoom = next;
  hold(); draw();
}

function hold() { // pictures do not leave their panels
  const most = (view.zoom - 1) / 2;
  view.x = Math.min(most, Math.max(-most, view.x));
  view.y = Math.min(most, Math.max(-most, view.y));
}

function mouse(canvas) {
  let drag = null;
  const share = (event) => { const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height, size: box.width }; };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, pan: event.button !== 0 || event.shiftKey };
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = share(event);
    view.cross = { ...here, on: canvas };
    if (!drag) { draw(); return; }
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    Object.assign(drag, { x: event.clientX, y: event.clientY });
    if (drag.pan) { view.x += dx / here.size; view.y += dy / here.size; hold(); draw(); }
    else adjust(dx, -dy / 2);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { view.cross = null; draw(); });
  canvas.addEventListener("wheel", (event) => {
    const here = share(event);
    zoom(Math.exp(-Math.sign(event.deltaY) * 0.18), here.x, here.y);
    event.preventDefault();
  }, { passive: false });
}

// ---- an item ----
async function show(index) {
  tick();
  at = index;
  shown = null;
  const item = study.items[index];
  draft = { value: item.value ? { ...item.value } : {}, comment: item.comment };
  Object.assign(clock, { spent: 0, since: null });
  Object.assign(view, { zoom: 1, x: 0, y: 0, level: 128, width: 256, cross: null });
  side = "a";
  plain = null;
  hidden = false;
  el("outlines").setAttribute("aria-pressed", "false");
  el("hint").textContent = "";
  mark();
  frames(item);
  el("waiting").hidden = false;
  const found = await pictures(item);
  if (at !== index || study.items[at] !== item) return;
  panels.forEach((panel, n) => Object.assign(panel, found[n]));
  plain = found[panels.length] || null;
  level(); lay();
  el("waiting").hidden = true;
  shown = item.id;
  document.body.dataset.shown = item.id;
  tick(); mark();
  for (const next of study.items.slice(index + 1, index + 3)) pictures(next);
  for (const id of fetched.keys()) if (!study.items.slice(Math.max(0, index - 1), index + 3).some((i) => i.id === id)) fetched.delete(id);
}

function frames(item) {
  const labels = calls() ? item.labels : item.labels.slice(0, 2); // of two segmentations, a third picture lies under both
  if (panels.length !== labels.length) {
    panels.length = 0;
    el("grid").replaceChildren(...labels.map(() => {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      mouse(canvas);
      figure.append(canvas, document.createElement("figcaption"));
      panels.push({ canvas });
      return figure;
    }));
  }
  for (const panel of panels) panel.source = panel.pixels = null;
  draw();
  labels.forEach((label, n) => {
    panels[n].canvas.setAttribute("aria-label", `${label || "Picture"}, panel ${n + 1} of ${labels.length}`);
    panels[n].canvas.nextSibling.textContent = label;
    panels[n].canvas.nextSibling.hidden = !label;
  });
}

// ---- questions ----
const calls = () => study.kind === "real_or_synthetic";
function wanted() {
  if (calls()) return study.scale === "binary" ? ["call"] : ["call", "confidence"];
  return ["prefer", "rating_a", "rating_b"];
}
const asks = { call: "Call it: R or S", confidence: "How sure are you? 1 to 5", prefer: "Which would you rather correct? A, B or =",
  rating_a: "Rate A: 1 to 5", rating_b: "Rate B: 1 to 5" };

function group(field, words, options, big, ends) {
  const box = document.createElement("fieldset"), legend = document.createElement("legend"), row = document.createElement("div");
  box.dataset.field = field;
  legend.textContent = words;
  row.className = big ? "row big" : "row";
  for (const [value, key, name, label] of options) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.field = field;
    button.dataset.value = value;
    if (label) button.setAttribute("aria-label", label);
    if (key) { const cap = document.createElement("kbd"); cap.textContent = key; button.append(cap, " "); }
    button.append(name);
    button.addEventListener("click", () => choose(field, value));
    row.append(button);
  }
  box.append(legend, row);
  if (ends) { const line = document.createElement("div"); line.className = "ends";
    for (const end of ends) { const span = document.createElement("span"); span.textContent = end; line.append(span); } box.append(line); }
  return box;
}

function questions() {
  const five = (what) => [1, 2, 3, 4, 5].map((n) => [n, "", String(n), `${what} ${n} of 5`]);
  const parts = calls()
    ? [group("call", "This is", [["real", "R", "Real"], ["synthetic", "S", "Synthetic"]], true)]
    : [group("prefer", "Which would you rather correct?", [["A", "", "A"], ["same", "=", "Same"], ["B", "", "B"]], true),
      group("rating_a", "Quality of A", five("Quality of A:"), false, ["1 useless", "5 as it is"]),
      group("rating_b", "Quality of B", five("Quality of B:"), false, ["1 useless", "5 as it is"])];
  if (wanted().includes("confidence")) parts.push(group("confidence", "How sure are you?", five("Confidence"), false, ["1 a guess", "5 certain"]));
  el("questions").replaceChildren(...parts);
}

function choose(field, value) {
  if (shown === null) return;
  draft.value[field] = value;
  if (field === "rating_a") side = "b";
  if (field === "rating_b") side = "a";
  el("hint").textContent = "";
  mark();
}

function mark() {
  const missing = wanted().filter((field) => draft.value[field] === undefined || draft.value[field] === null);
  for (const button of el("questions").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(draft.value[button.dataset.field]) === button.dataset.value);
    button.disabled = shown === null;
  }
  for (const box of el("questions").querySelectorAll("fieldset")) box.classList.toggle("active", !calls() && box.dataset.field === `rating_${side}`);
  el("next").disabled = missing.length > 0 || shown === null;
  el("back").disabled = at === 0;
  el("commented").textContent = draft.comment;
  el("commented").hidden = !draft.comment;
  const done = study.items.filter((item) => item.value).length;
  el("progress").max = study.total;
  el("progress").value = done;
  el("count").textContent = `${at + 1} of ${study.total} · ${done} answered`;
  return missing;
}

function confirmItem() {
  if (shown === null) return;
  const missing = mark();
  if (missing.length) { el("hint").textContent = asks[missing[0]]; return; }
  const item = study.items[at], value = {};
  for (const field of wanted()) value[field] = draft.value[field];
  const same = item.value && wanted().every((field) => item.value[field] === value[field]) && item.comment === draft.comment;
  if (!same) {
    tick();
    const nonce = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
    const seconds = Math.min(86400, Math.round(clock.spent) / 1000);
    if (!keep({ item: item.id, value, seconds, comment: draft.comment, nonce })) {
      el("hint").textContent = "This browser cannot keep the answer (private window, or its storage is full): nothing was stored.";
      return;
    }
    item.value = calls() ? { confidence: null, ...value } : value;
    item.comment = draft.comment;
    flush();
  }
  const next = at + 1 < study.total ? at + 1 : study.items.findIndex((one) => !one.value);
  if (next < 0) { mark(); finish(); } else show(next);
}

function back() { if (at > 0) show(at - 1); }
function finish() { shown = null; tick(); showSaved(pending().length, showSaved.why); document.body.dataset.shown = "end"; open("end"); flush(); }

// ---- boxes ----
function open(id) { tick(); if (!el(id).open) el(id).showModal(); tick(); }
function close(id) { el(id).close(); }
function trouble(words) { el("trouble-text").textContent = words; open("trouble"); }
function comment() {
  if (shown === null) return;
  el("comment-text").value = draft.comment;
  open("comment-box");
  el("comment-text").focus();
}
function keepComment() { draft.comment = el("comment-text").value.replace(/[\u0000-\u0008\u000b-\u001f]/g, ""); close("comment-box"); mark(); }
function full() { if (document.fullscreenElement) document.exitFullscreen(); else document.documentElement.requestFullscreen().catch(() => {}); }

function fillKeys() {
  const answers = calls()
    ? [["R / S", "real / synthetic"], ...(study.scale === "binary" ? [] : [["1 – 5", "how sure you are: 1 a guess, 5 certain"]])]
    : [["A / B / =", "the one you would rather correct, or the same"], ["1 – 5", "quality of A, then of B (the yellow one is next)"], ["O", "hide the segmentations, show them again"], ["← / →", "rate A / rate B"]];
  const rows = [...answers, ["Space or Enter", "confirm and go on"], ["Backspace", "go back; an answer may be changed"], ["C", "comment"],
    ["Drag", "contrast (left and right) and brightness (up and down), all panels"], ["Wheel, + / −", "zoom"], ["Right drag, Shift drag", "move"],
    ["0, double click", "reset the view"], ["P", "pause"], ["F", "full screen"], ["?", "this help"]];
  for (const id of ["keys", "start-keys"]) el(id).replaceChildren(...rows.flatMap(([key, words]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd"), cap = document.createElement("kbd");
    cap.textContent = key; dt.append(cap); dd.textContent = words; return [dt, dd];
  }));
}
function help() { open("help-box"); }

function legend() {
  el("legend").hidden = !study.legend.length;
  el("outlines").hidden = calls();
  el("reset").classList.toggle("wide", calls());
  el("legend").replaceChildren(...study.legend.map(([name, colour]) => {
    const line = document.createElement("li"), patch = document.createElement("span");
    patch.style.backgroundColor = colour;
    line.append(patch, name);
    return line;
  }));
}

// ---- keys ----
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Enter" && el("comment-box").open) keepComment();
    return;
  }
  const open_box = document.querySelector("dialog[open]"), typed = event.key.toLowerCase();
  if (open_box) {
    const act = { start: begin, "pause-box": () => close("pause-box"), "help-box": () => close("help-box") }[open_box.id];
    if (act && (typed === " " || typed === "enter") && !event.repeat) { event.preventDefault(); act(); }
    if (open_box.id === "end" && typed === "backspace") { event.preventDefault(); look(); }
    return;
  }
  if (document.activeElement.tagName === "BUTTON" && (typed === " " || typed === "enter")) return; // reached by Tab: it acts itself
  const number = /^[1-5]$/.test(typed) ? Number(typed) : 0;
  const table = { " ": confirmItem, enter: confirmItem, backspace: back, c: comment, 0: reset, p: () => open("pause-box"), f: full, "?": help, o: outlines,
    "+": () => zoom(1.25), "-": () => zoom(0.8) };
  if (calls()) {
    Object.assign(table, { r: () => choose("call", "real"), s: () => choose("call", "synthetic") });
    if (number && study.scale !== "binary") table[typed] = () => choose("confidence", number);
  } else {
    Object.assign(table, { a: () => choose("prefer", "A"), b: () => choose("prefer", "B"), "=": () => choose("prefer", "same"),
      arrowleft: () => { side = "a"; mark(); }, arrowright: () => { side = "b"; mark(); } });
    if (number) table[typed] = () => choose(`rating_${side}`, number);
  }
  if (!table[typed]) return;
  event.preventDefault();
  const repeats = typed === "+" || typed === "-";
  if (!event.repeat || repeats) table[typed]();
}

// ---- begin ----
function begin() {
  close("start");
  const first = study.items.findIndex((item) => !item.value);
  if (first < 0) { at = study.total - 1; draft = { value: {}, comment: "" }; mark(); finish(); } else show(first);
}
function look() { close("end"); show(study.total - 1); }

async function load() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      const reply = await fetch(`${base}/state`, { signal: AbortSignal.timeout(15000) });
      if (reply.status === 200) return reply.json();
      if (reply.status === 404) { trouble("Please ask the person who runs the study for a new one. Your answers are not lost."); return null; }
    } catch { /* the server is away: ask again */ }
    await sleep(wait);
  }
}

async function main() {
  const clicks = { back, next: confirmItem, comment, pause: () => open("pause-box"), full, help, reset, outlines, begin, look,
    "help-close": () => close("help-box"), "resume-button": () => close("pause-box"), "comment-keep": keepComment,
    "comment-drop": () => close("comment-box"), again: () => location.reload(), in: () => zoom(1.25), out: () => zoom(0.8),
    darker: () => adjust(0, 8), brighter: () => adjust(0, -8), softer: () => adjust(16, 0), harder: () => adjust(-16, 0) };
  for (const [id, act] of Object.entries(clicks)) el(id).addEventListener("click", act);
  study = await load();
  if (study === null) return;
  for (const { answer } of pending()) { // what this browser still holds is as good as stored
    const item = study.items.find((one) => one.id === answer.item);
    if (item) Object.assign(item, { value: answer.value, comment: answer.comment });
  }
  const done = study.items.filter((item) => item.value).length;
  document.title = study.title;
  el("title").textContent = el("start-title").textContent = study.title;
  el("instructions").textContent = study.instructions;
  el("composition").textContent = study.composition;
  el("resume").textContent = done ? `Welcome back, ${study.reader}: ${done} of ${study.total} are answered.`
    : `Reader ${study.reader}, ${study.total} items. You may stop at any time and go on with the same link.`;
  questions();
  fillKeys();
  legend();
  el("app").hidden = false;
  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("click", (event) => { // after a mouse click, Space confirms and does not click again
    const button = event.target.closest("button");
    if (button && event.detail > 0) button.blur();
  });
  for (const box of document.querySelectorAll("dialog")) {
    box.addEventListener("close", tick);
    if (["start", "end", "trouble"].includes(box.id)) box.addEventListener("cancel", (event) => event.preventDefault());
  }
  new ResizeObserver(lay).observe(el("viewer"));
  window.addEventListener("beforeunload", (event) => { if (pending().length) event.preventDefault(); });
  open("start");
  flush();
}

main();
