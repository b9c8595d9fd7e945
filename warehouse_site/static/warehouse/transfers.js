// Uploads: files and folders, chunk by chunk, from the browser straight to the volume servers.
//
//   waiting ─> running ─> done            a small file takes a needle of a lease that many share,
//     ^ │        │ │ └──> failed ─┐       a larger one is an upload, whose missing chunks can be asked for:
//     │ └> paused <┘              │       after a pause, an error, or a reload of the page
//     └────┴───────(again)────────┘

const PARALLEL = 6; // requests with bytes in them
const PER_FILE = 2; // of these for one file: a chunk that is cut off has to be sent anew
const SMALL = 1 << 20;
const TRIES = 9;
const SAME_NEEDLE_TRIES = 3;
const SILENCE_MS = 60000;
const MAX_KEY_BYTES = 1024;
const SHOWN = 100;
const STOPPED = Symbol("stopped");
const AGAIN = new Set([0, 408, 429, 500, 502, 503, 504, 507]);
const NEW_NEEDLE = new Set(["expired", "lease_exhausted", "needle_taken", "not_primary", "epoch_stale"]);

const panel = document.getElementById("uploads");
const bucket = panel.dataset.bucket;
const folder = JSON.parse(document.getElementById("upload-folder").textContent);
const path = `buckets/${encodeURIComponent(bucket)}`;
/** A name as the pages show it: nothing in it is invisible, or turns the text around. */
const shown = (name) =>
  name
    .replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd")
    .replace(/^ +| +$|(?<=[ \/]) +| +(?=\/)/g, (blanks) => "\u2423".repeat(blanks.length));
const find = (name) => panel.querySelector(`[data-part="${name}"]`);
const [list, totals, bar, status, title] = ["list", "totals", "bar", "status", "title"].map(find);
const rowOf = document.getElementById("upload-row");
const jobs = new Map(); // by key
const mayRead = "read" in panel.dataset;
const waiting = [];
const open = new Set(); // large files on their way
let active = 0;

const sum = (numbers) => [...numbers].reduce((all, one) => all + one, 0);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; unit < 4 && bytes >= (unit ? 999.5 : 1000); unit++) bytes /= 1000;
  return `${bytes.toFixed(unit && bytes < 99.95 ? 1 : 0)} ${units[unit]}`;
}

// --- What was refused, and what is tried again ---

class Refusal extends Error {
  constructor(status, body) {
    super(body?.detail || (status ? `The store answered with an error (${status}).` : "The connection broke off."));
    this.status = status;
    this.code = body?.code ?? "";
    this.needsNewNeedle = NEW_NEEDLE.has(this.code);
    this.again = (AGAIN.has(status) && this.code !== "quota_exceeded") || this.needsNewNeedle;
    if (status === 401) this.message = "You are signed out: sign in again in another tab, then try it again.";
    if (status === 412) this.message = "It is there already: somebody else put it there meanwhile.";
  }
}

let ahead = 0; // the store's clock, compared with the one here
const hereAt = (time) => Date.parse(time) - ahead;

async function api(method, where, body) {
  const headers = { Accept: "application/json", ...warehouse.headers() };
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    // What is cancelled is cancelled, even if the page is left in the same moment.
    const keepalive = method === "DELETE";
    answer = await fetch(`/api/v1/${where}`, { method, headers, body: body && JSON.stringify(body), keepalive });
  } catch {
    throw new Refusal(0);
  }
  ahead = Date.parse(answer.headers.get("Date")) - Date.now() || 0;
  const told = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Refusal(answer.status, told);
  return told;
}

/** PUTs a piece; a pause of its job ends it, and so does a minute without a byte. */
function put(job, url, blob, headers) {
  return new Promise((resolve, reject) => {
    if (job.state !== "running") throw STOPPED;
    const request = new XMLHttpRequest();
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => request.abort(), SILENCE_MS);
    };
    const ended = (error, told) => {
      clearTimeout(silence);
      job.flying.delete(request);
      if (error) reject(job.state === "running" ? error : STOPPED);
      else resolve(told);
    };
    request.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      job.flying.set(request, event.loaded);
      alive();
      soon();
    };
    request.onload = () =>
      ended(request.status < 300 ? null : new Refusal(request.status, request.response), request.response);
    request.onerror = request.onabort = () => ended(new Refusal(0));
    job.flying.set(request, 0);
    alive();
    request.send(blob);
  });
}

/** Runs `step(tries)` until it succeeds or fails for good. */
async function patiently(job, step) {
  for (let tries = 0; ; tries++) {
    try {
      const result = await step(tries);
      job.note = "";
      return result;
    } catch (error) {
      if (job.state !== "running") throw STOPPED;
      if (!error.again || tries === TRIES) throw error;
      job.note = `${error.message} Trying again.`;
      soon();
      const seconds = Math.min(15, 2 ** tries / 2) * (0.5 + Math.random() / 2);
      await new Promise((resolve) => setTimeout((job.wake = resolve), seconds * 1000));
      if (job.state !== "running") throw STOPPED;
    }
  }
}

// --- What outlives the page: which uploads were begun, of which files ---

const acting = document.body.dataset.key; // which API key is signed in: to others nothing of it is shown
let tab = String(Math.random());
try {
  tab = sessionStorage.uploadsTab ??= tab;
} catch {} // A browser that keeps nothing uploads all the same.

function everybodys() {
  try {
    return JSON.parse(localStorage.uploads ?? "[]").filter((one) => one.until > Date.now());
  } catch {
    return [];
  }
}
function write(all) {
  try {
    localStorage.uploads = JSON.stringify(all.slice(-200));
  } catch {} // full, or not allowed
}
const remembered = () => everybodys().filter((one) => one.acting === acting && one.bucket === bucket);
const forget = (id) => write(everybodys().filter((one) => one.id !== id));
const abort = (id) => {
  forget(id);
  api("DELETE", `uploads/${id}`).catch(() => {}); // then it ends when its time is over
};
const isOf = (one, file) =>
  one.key.split("/").pop() === file.name && one.size === file.size && one.modified === file.lastModified;
/** No other tab is at it. */
const isFree = (one) => one.tab === tab || Date.now() - one.at > 15000;

// --- Small files ---

let lease;
let leasing;

const isOver = () => lease.next === lease.count || (lease.next > 0 && Date.now() > lease.until);

async function makeLease() {
  const count = Math.min(256, waiting.length + 1);
  const made = await api("POST", `${path}/leases`, { count, max_bytes: SMALL, ...(folder && { prefix: folder }) });
  const life = hereAt(made.expires_at) - Date.now();
  lease = { ...made, next: 0, until: Date.now() + Math.max(life - 30000, life / 2) };
}

/** A needle of the lease, where to put it, and the ETag that it makes. */
async function slot(job) {
  for (let tries = 0; !lease || isOver(); tries++) {
    if (job.state !== "running") throw STOPPED;
    if (tries > PARALLEL) throw new Refusal(503, { detail: "The leases of the store end too soon." });
    leasing ??= makeLease().finally(() => (leasing = null));
    await leasing;
  }
  const needle = BigInt(`0x${lease.first}`) + BigInt(lease.next++);
  const etag = needle.toString(16).padStart(16, "0");
  return { url: lease.url.replace("{needle}", etag), etag };
}

async function sendSmall(job) {
  const headers = { "Warehouse-Key": encodeURIComponent(job.key), "Content-Type": job.type };
  if (job.isNew) headers["If-None-Match"] = "*";
  let place;
  let unknown; // whether an earlier PUT of this needle may have been committed
  await patiently(job, async (tries) => {
    if (tries >= SAME_NEEDLE_TRIES) place = lease = null; // its volume is away, or takes no more
    if (!place) {
      place = await slot(job);
      job.etags.add(place.etag);
      unknown = false;
    }
    try {
      await put(job, place.url, job.file, headers);
    } catch (error) {
      if (unknown && error.code === "needle_taken") {
        error.again = false; // it was committed: a new needle would undo what came after it
        error.message = "Somebody else replaced or deleted it meanwhile.";
      } else if (error.needsNewNeedle || error.status === 507) place = lease = null;
      unknown = true;
      throw error;
    }
  });
  finish(job);
}

// --- Large files ---

async function begin(job) {
  const isSame = (one) => one.key === job.key && isOf(one, job.file) && !one.isNew === !job.isNew;
  job.upload ??= remembered().find((one) => isSame(one) && isFree(one))?.id;
  panel.querySelector(`[data-id="${job.upload}"]`)?.remove();
  await patiently(job, async () => {
    if (job.upload) {
      try {
        const state = await api("GET", `uploads/${job.upload}`);
        if (state.state === "completed" && job.taken === job.upload) return finish(job);
        if (state.state === "open") return take(job, state.missing);
      } catch (error) {
        if (error.status !== 404) throw error;
      }
      forget(job.upload);
      job.upload = null;
    }
    const condition = job.isNew && { if_none_match: true };
    const wanted = { key: job.key, size: job.size, content_type: job.type, ...condition };
    const made = await api("POST", `${path}/uploads`, wanted);
    if (job.state === "cancelled") return abort(made.id);
    job.upload = made.id;
    const { key, isNew, size, file } = job;
    const one = { id: made.id, acting, bucket, key, isNew, size, modified: file.lastModified, tab };
    write([...everybodys(), { ...one, until: hereAt(made.expires_at), at: Date.now() }]);
    take(job, made.chunks);
  });
}

function take(job, missing) {
  job.taken = job.upload;
  job.etags.add(job.upload.replaceAll("-", ""));
  job.pieces = missing;
  job.stored = job.size - sum(missing.map((piece) => piece.size));
  if (job.state === "running") open.add(job);
  if (!missing.length) throw new Refusal(503, { detail: "The last chunk is not committed yet." });
}

async function sendPiece(job, piece) {
  try {
    const told = await patiently(job, async (tries) => {
      if (tries) {
        const state = await api("GET", `uploads/${job.upload}`);
        if (state.state === "completed") return { state: "committed" };
        if (state.state !== "open") throw new Refusal(409, { detail: "The upload has ended meanwhile." });
        const fresh = state.missing.find((one) => one.index === piece.index);
        if (!fresh) return null;
        piece = fresh;
      }
      return put(job, piece.url, job.file.slice(piece.offset, piece.offset + piece.size), {});
    });
    job.stored += piece.size;
    if (told?.state === "committed") finish(job);
    else if (!job.pieces.length && job.busy === 1) await begin(job); // what does the store say?
  } catch (error) {
    if (error !== STOPPED && job.state === "running") throw error;
    job.pieces.push(piece);
  }
}

// --- The line ---

function next() {
  for (const job of open)
    if (job.state === "running" && job.pieces.length && job.busy < PER_FILE)
      return [job, () => sendPiece(job, job.pieces.shift())];
  const job = waiting.shift();
  if (!job) return null;
  job.state = "running";
  show(job);
  return [job, () => (job.size <= SMALL && !job.upload ? sendSmall(job) : begin(job))];
}

function pump() {
  let task;
  while (active < PARALLEL && (task = next())) {
    const [job, run] = task;
    began = true;
    active++;
    job.busy++;
    run()
      .catch((error) => meet(job, error))
      .catch((error) => error === STOPPED || fail(job, error))
      .finally(() => {
        active--;
        job.busy--;
        pump();
      });
  }
  soon();
}

/** What is there already may be this very file, of a request whose answer was lost. */
async function meet(job, error) {
  const isThere = error.status === 412;
  if ((isThere || error.code === "needle_taken") && (await patiently(job, () => isOurs(job)))) return finish(job);
  job.clashes = isThere;
  throw error;
}

async function isOurs(job) {
  if (!mayRead) return false;
  const [found] = (await api("POST", `${path}/stat`, { keys: [job.key] })).objects;
  return job.etags.has(found?.etag);
}

function finish(job) {
  if (job.state === "done") return;
  halt(job, "done");
  job.stored = job.size;
  job.note = "";
  if (job.upload) forget(job.upload);
  job.file = null;
  changed();
}

function fail(job, error) {
  if (job.state !== "running") return;
  halt(job, "failed");
  job.note = error.message ?? String(error);
  show(job, true);
  if (job.clashes) changed();
}

function halt(job, state) {
  job.state = state;
  open.delete(job);
  const at = waiting.indexOf(job);
  if (at >= 0) waiting.splice(at, 1);
  if (state === "paused") job.note = job.flying.size ? "The chunks that were on their way will be sent anew." : "";
  for (const request of [...job.flying.keys()]) request.abort();
  job.flying.clear();
  job.wake?.();
  soon();
}

function resume(job) {
  if (!["paused", "failed"].includes(job.state)) return;
  if (job.busy) return setTimeout(resume, 100, job);
  job.state = "waiting";
  job.clashes = false;
  job.note = "";
  waiting.push(job);
  pump();
}

/** Instead of what turned out to be there: without the condition that there be nothing. */
function replace(job) {
  if (job.upload) abort(job.upload);
  Object.assign(job, { upload: null, isNew: false, pieces: [], stored: 0 });
  resume(job);
}

function cancel(job) {
  const { state } = job;
  if (state !== "done") halt(job, "cancelled");
  jobs.delete(job.key);
  job.row?.remove();
  if (job.upload && state !== "done") abort(job.upload);
  soon();
}

const DO = {
  pause: (job) => ["waiting", "running"].includes(job.state) && halt(job, "paused"),
  resume,
  replace,
  cancel,
  clear: (job) => job.state === "done" && cancel(job),
};

// --- What is seen ---

let drawing;
const soon = () => (drawing ??= setTimeout(draw, 150));

function show(job, always) {
  if (job.row?.isConnected || (!always && list.children.length >= SHOWN)) return;
  job.row = rowOf.content.firstElementChild.cloneNode(true);
  const name = shown(job.name);
  job.row.querySelector("bdi").textContent = name;
  job.row.querySelector("progress").setAttribute("aria-label", name);
  for (const button of job.row.querySelectorAll("[data-do]")) {
    button.setAttribute("aria-label", `${button.title} ${name}`);
    button.onclick = () => DO[button.dataset.do](job);
  }
  list.append(job.row);
}

const sent = (job) => Math.min(job.size, job.stored + sum(job.flying.values()));

const samples = [];
let began;
let marked = 0;

function draw() {
  drawing = null;
  const count = { waiting: 0, running: 0, paused: 0, done: 0, failed: 0 };
  let [all, gone] = [0, 0];
  for (const job of jobs.values()) {
    count[job.state]++;
    all += job.size;
    const bytes = sent(job);
    gone += bytes;
    if (job.row) drawRow(job, bytes);
  }
  const busy = count.waiting + count.running;
  const now = Date.now();
  samples.push([now, gone]);
  while (samples[0][0] < now - 5000 && samples.length > 2) samples.shift();
  if (!busy) samples.length = 0;
  const speed = busy && now > samples[0][0] ? ((gone - samples[0][1]) * 1000) / (now - samples[0][0]) : 0;
  totals.hidden = !jobs.size;
  bar.max = all || 1;
  bar.value = all ? gone : 1;
  const parts = [`${count.done} of ${plural(jobs.size, "file")}`, `${size(gone)} of ${size(all)}`];
  if (speed > 0) parts.push(`${size(speed)}/s`, left((all - gone) / speed));
  else if (samples.length && now - samples[0][0] > 4000) parts.push("waiting for the store");
  if (count.failed) parts.push(`${count.failed} failed`);
  title.textContent = parts.join(" · ");
  find("pause").hidden = !busy;
  find("resume").hidden = !count.paused && !count.failed;
  find("cancel").hidden = count.done === jobs.size;
  find("clear").hidden = !count.done;
  say(busy, count, all ? gone / all : 1);
  if (busy && now - marked > 5000) {
    marked = now;
    write(everybodys().map((one) => (one.tab === tab ? { ...one, at: now } : one)));
  }
  if (busy) soon();
}

function drawRow(job, bytes) {
  const { row, state } = job;
  if (state === "done" && waiting.length && list.children.length >= SHOWN) {
    row.remove();
    return;
  }
  const percent = job.size ? Math.floor((100 * bytes) / job.size) : 0;
  const words = {
    waiting: `waiting, ${size(job.size)}`,
    running: `${percent} % of ${size(job.size)}`,
    paused: `paused at ${percent} % of ${size(job.size)}`,
    done: size(job.size),
    failed: "failed",
  };
  const meter = row.querySelector("progress");
  row.dataset.state = state;
  row.querySelector(".figures").textContent = words[state];
  row.querySelector(".note").textContent = job.note;
  meter.max = job.size || 1;
  meter.value = state === "done" ? meter.max : bytes;
  for (const button of row.querySelectorAll("[data-do]"))
    button.hidden = !button.dataset.in.split(" ").includes(job.clashes ? "clashes" : state);
}

const left = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s left` : `${Math.round(seconds / 60)} min left`);

/** For screen readers: the beginning, each quarter, the end. */
function say(busy, count, part) {
  let words = "";
  if (busy) words = `Uploading ${plural(jobs.size, "file")}, ${Math.floor(part * 4) * 25} percent done.`;
  else if (count.failed) words = `${plural(count.done, "file")} uploaded, ${count.failed} failed.`;
  else if (count.paused) words = "Uploads are paused.";
  else if (jobs.size) words = `${plural(count.done, "file")} uploaded.`;
  if (status.textContent !== words) status.textContent = words;
  if (!busy && began) {
    began = false;
    if (!jobs.size) return;
    if (count.failed) warehouse.toast(`${words} Each says why.`, "error");
    else if (!count.paused) warehouse.toast(words);
  }
}

// The list is asked for once more where it could not be had.
for (const name of ["htmx:sendError", "htmx:responseError"])
  document.body.addEventListener(name, ({ detail }) => {
    if (detail.elt.id === "object-list" && !(detail.xhr.status < 500 && detail.xhr.status)) setTimeout(changed, 4000);
  });

let changing;
function changed() {
  changing ??= setTimeout(() => {
    changing = null;
    document.body.dispatchEvent(new CustomEvent("objects-changed"));
  }, 1000);
}

// --- What is to be uploaded ---

/** `files`: pairs of a file and its path below the open folder. */
async function add(files) {
  const wrong = [];
  const good = files.filter(([, name]) => {
    const fits = new TextEncoder().encode(folder + name).length <= MAX_KEY_BYTES;
    return fits || !wrong.push(name);
  });
  if (wrong.length) warehouse.toast(`The name is too long: ${shown(wrong[0].slice(0, 80))}…`, "error");
  for (const [file, name, isNew] of await choose(good)) enqueue({ file, key: folder + name, name, isNew });
  pump();
}

/** `isNew`: nothing was there, so nothing may be replaced. `upload`: the one that is gone on with. */
function enqueue({ file, key, name, isNew, upload }) {
  const other = jobs.get(key);
  if (other?.file?.size === file.size && other.file.lastModified === file.lastModified)
    return other.clashes && !isNew ? replace(other) : resume(other);
  if (other) cancel(other);
  const type = file.type || "application/octet-stream";
  const job = { file, key, name, isNew, upload, type, size: file.size, state: "waiting", stored: 0, busy: 0, note: "" };
  Object.assign(job, { flying: new Map(), pieces: [], etags: new Set() });
  jobs.set(key, job);
  waiting.push(job);
  show(job);
}

/** Asks once what becomes of those that are there already; the others are told to be new. */
async function choose(files) {
  if (!mayRead) return files;
  const there = new Set();
  if (files.length > 1000) warehouse.toast(`Looking at ${files.length} files…`);
  try {
    for (let at = 0; at < files.length; at += 1000) {
      const keys = files.slice(at, at + 1000).map(([, name]) => folder + name);
      for (const one of (await api("POST", `${path}/stat`, { keys })).objects) there.add(one.key);
    }
  } catch (error) {
    warehouse.toast(`${error.message} Nothing of it is uploaded: choose it again then.`, "error");
    return [];
  }
  const all = files.map(([file, name]) => [file, name, !there.has(folder + name)]);
  if (!there.size) return all;
  const dialog = document.getElementById("upload-exists");
  const [first] = there;
  dialog.querySelector("bdi").textContent = shown(first.slice(folder.length));
  dialog.querySelector("[data-part=rest]").textContent =
    there.size > 1 ? `and ${plural(there.size - 1, "other")} are there already.` : "is there already.";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue === "replace") return all;
  if (dialog.returnValue !== "skip") return [];
  warehouse.toast(`${plural(there.size, "file")} skipped.`);
  return all.filter(([, , isNew]) => isNew);
}

/** All files of what was dropped, folders read to their ends. */
async function dropped(items) {
  const found = [];
  const asked = (object, method) => new Promise((resolve, reject) => object[method](resolve, reject));
  async function walk(entry, above) {
    if (entry instanceof File) found.push([entry, entry.name]);
    else if (entry.isFile) found.push([await asked(entry, "file"), above + entry.name]);
    else {
      const reader = entry.createReader();
      let some;
      while ((some = await asked(reader, "readEntries")).length)
        for (const one of some) await walk(one, `${above}${entry.name}/`);
    }
  }
  // All at once: after this event they are gone.
  const entries = [...items].filter((item) => item.kind === "file");
  for (const entry of entries.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile())) await walk(entry, "");
  return found;
}

for (const input of panel.querySelectorAll("input[type=file]"))
  input.onchange = () => {
    add([...input.files].map((file) => [file, file.webkitRelativePath || file.name]));
    input.value = "";
  };
for (const button of panel.querySelectorAll("[data-opens]"))
  button.onclick = () => document.getElementById(button.dataset.opens).click();
for (const name of ["pause", "resume", "cancel", "clear"])
  find(name).onclick = () => {
    if (name === "pause" || name === "cancel") waiting.length = 0;
    for (const job of [...jobs.values()]) DO[name](job);
  };

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  panel.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? panel.classList.remove("over"));
document.addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  panel.classList.remove("over");
  try {
    const files = await dropped(event.dataTransfer.items);
    if (files.length) await add(files);
    else warehouse.toast("There is no file in this folder.", "error");
  } catch (error) {
    warehouse.toast(`This cannot be read: ${error.message}`, "error");
  }
});

addEventListener("beforeunload", (event) => {
  if ([...jobs.values()].some((job) => ["waiting", "running"].includes(job.state))) event.preventDefault();
});

// --- What an earlier page left unfinished ---

async function offer(one) {
  let state;
  try {
    state = await api("GET", `uploads/${one.id}`);
  } catch (error) {
    if (error.status === 404 || error.status === 410) forget(one.id);
    return;
  }
  if (state.state !== "open") return forget(one.id);
  const row = document.getElementById("upload-left").content.firstElementChild.cloneNode(true);
  const stored = one.size - sum(state.missing.map((piece) => piece.size));
  row.querySelector("bdi").textContent = shown(one.key);
  row.querySelector(".figures").textContent = `${size(stored)} of ${size(one.size)} are stored`;
  const input = row.querySelector("input");
  row.querySelector("[data-do=choose]").onclick = () => input.click();
  input.onchange = () => {
    const [file] = input.files;
    if (!file) return;
    if (!isOf(one, file)) return warehouse.toast("This is another file, or it was changed since.", "error");
    enqueue({ file, key: one.key, name: one.key, isNew: one.isNew, upload: one.id });
    pump();
  };
  row.querySelector("[data-do=discard]").onclick = () => {
    row.remove();
    abort(one.id);
  };
  row.dataset.id = one.id;
  find("left").append(row);
}

remembered().filter(isFree).slice(-20).forEach(offer);
