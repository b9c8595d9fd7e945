// What every page has: messages that can be closed, parts that live, shortcuts, and small helpers of forms.

const toasts = document.getElementById("toasts");
const SECONDS_SHOWN = 6;

function watch(toast) {
  if (!toast.isConnected) return;
  const text = toast.querySelector("p").textContent;
  for (const other of toasts.querySelectorAll(".toast"))
    if (other !== toast && other.querySelector("p").textContent === text) other.remove();
  if (toast.classList.contains("error") || toast.dataset.watched) return;
  toast.dataset.watched = "";
  const fade = () => (toast.matches(":hover, :focus-within") ? setTimeout(fade, 2000) : toast.remove());
  setTimeout(fade, SECONDS_SHOWN * 1000);
}

/** Says something beside the page; `tone` is "success" or "error", which stays until it is closed. */
function toast(text, tone = "success") {
  const box = document.createElement("div");
  box.className = `toast ${tone}`;
  if (tone === "error") box.setAttribute("role", "alert");
  const words = document.createElement("p");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "icon-button";
  close.dataset.close = "";
  close.setAttribute("aria-label", "Close this message");
  close.textContent = "×";
  box.append(words, close);
  toasts.append(box);
}

/** The token of now: a sign-in in another tab makes a new one. */
const csrf = () => /(?:^|; )csrftoken=(\w+)/.exec(document.cookie)?.[1] ?? document.body.dataset.csrf;

/** What requests say beside their cookie: the page's own token, and the key that the page was made for. */
const headers = () => ({ "X-CSRFToken": csrf(), "Acting-Key": document.body.dataset.key });

window.warehouse = { toast, headers };

for (const told of toasts.children) watch(told);
// What a page brings along is only read aloud when it is put there afterwards.
setTimeout(() => toasts.append(...toasts.children), 100);
document.querySelector(".field.wrong :is(input, select, textarea)")?.focus();

new MutationObserver((changes) => {
  for (const change of changes) for (const node of change.addedNodes) if (node.classList?.contains("toast")) watch(node);
}).observe(toasts, { childList: true });

document.addEventListener("click", async (event) => {
  const target = event.target.closest?.("[data-close], [data-copy], [data-themes] button");
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  if (!target) return;
  if ("close" in target.dataset) target.closest(".toast, .notice").remove();
  if (target.name === "theme") {
    event.preventDefault();
    choose(target);
  }
  if (target.dataset.copy) {
    const source = document.querySelector(target.dataset.copy);
    const text = source.value ?? source.textContent;
    try {
      await navigator.clipboard.writeText(text.trim());
      toast("Copied.");
    } catch {
      getSelection().selectAllChildren(source);
      toast("It is selected: copy it with Ctrl+C.");
    }
  }
});

let sentAt = -Infinity;
document.addEventListener("submit", (event) => {
  const { csrfmiddlewaretoken: token, once } = event.target.elements;
  if (token) token.value = csrf();
  if (!token || event.defaultPrevented) return;
  // A second click would have the browser drop the answer to the first: of some forms it alone shows the secret.
  if (performance.now() - sentAt < (once ? 10000 : 1000)) event.preventDefault();
  else sentAt = performance.now();
});
addEventListener("pageshow", () => (sentAt = -Infinity));

/** The theme of a button, here and on the next pages; an empty one is the system's. */
function choose(button) {
  const theme = button.value;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `theme=${theme}; path=/; samesite=lax; max-age=${theme ? 31536000 : 0}${secure}`;
  for (const other of button.form.elements.theme) other.setAttribute("aria-pressed", other === button);
}

document.body.addEventListener("htmx:configRequest", (event) => {
  Object.assign(event.detail.headers, headers());
  if (event.detail.elt.matches("[data-live]") && event.detail.triggeringEvent === undefined)
    event.detail.headers["Warehouse-Live"] = "1";
});

// A part that lives is left alone while nobody sees it, and while somebody works in it.
document.body.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.detail.elt;
  if (!part.matches("[data-live]")) return;
  const busy = part.contains(document.activeElement) || part.querySelector("details[open], :checked");
  if (document.hidden || busy) event.preventDefault();
});

document.body.addEventListener("htmx:sendError", () => toast("The store does not answer. Is it running?", "error"));
document.body.addEventListener("htmx:responseError", (event) => {
  if (!event.detail.xhr.responseText.includes("hx-swap-oob"))
    toast(`The store answered with an error (${event.detail.xhr.status}). Try it again.`, "error");
});

/** To the next row of a list, or the one before: to what is first in it. */
function step(by) {
  const rows = [...document.querySelectorAll("main .table tbody tr")].filter((row) => row.querySelector("a, button"));
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by];
  (row?.querySelector("th a, td a") ?? row?.querySelector("a, button"))?.focus();
}

const KEYS = {
  "?": () => document.getElementById("shortcuts").showModal(),
  "/": () => document.querySelector("main [type=search]")?.focus(),
  n: () => document.querySelector("main a[href^='/new-'], main [data-new]")?.click(),
  u: () => document.querySelector("main [data-upload]")?.click(),
  j: () => step(1),
  k: () => step(-1),
};

let went = 0;
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (key === "Escape") {
    toasts.lastElementChild?.remove();
    if (target.matches?.("[type=search]")) target.blur();
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
      menu.open = false;
    }
  }
  const typing = target.closest?.("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog[open]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const goes = Date.now() - went < 1500;
  went = key === "g" ? Date.now() : 0;
  const todo = goes ? () => document.querySelector(`[data-shortcut="${CSS.escape(key)}"]`)?.click() : KEYS[key];
  if (!todo) return;
  event.preventDefault();
  todo();
});

// A picture, sound or film that the browser can't show says so.
function tellBroken(media) {
  const words = media.closest(".preview")?.querySelector("[data-broken]");
  if (!words) return;
  words.hidden = false;
  media.hidden = true;
}
document.addEventListener("error", (event) => tellBroken(event.target), true);
for (const image of document.querySelectorAll(".preview img")) if (image.complete && !image.naturalWidth) tellBroken(image);
