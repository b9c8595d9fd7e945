// What every page has: messages that can be closed, parts that live, shortcuts, and small helpers of forms.

const toasts = document.getElementById("toasts");
const SECONDS_SHOWN = 6;

function watch(toast) {
  const text = toast.querySelector("p").textContent;
  for (const other of toasts.querySelectorAll(".toast"))
    if (other !== toast && other.querySelector("p").textContent === text) other.remove();
  if (!toast.classList.contains("error")) setTimeout(() => toast.remove(), SECONDS_SHOWN * 1000);
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

window.warehouse = { toast, csrf: () => document.body.dataset.csrf };

for (const told of toasts.children) watch(told);
new MutationObserver((changes) => {
  for (const change of changes) for (const node of change.addedNodes) if (node.classList?.contains("toast")) watch(node);
}).observe(toasts, { childList: true });

document.addEventListener("click", async (event) => {
  const target = event.target.closest?.("[data-close], [data-copy], [data-check-all]");
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  if (!target) return;
  if ("close" in target.dataset) target.closest(".toast, .notice").remove();
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
  if (target.dataset.checkAll)
    for (const box of document.getElementsByName(target.dataset.checkAll)) {
      box.checked = target.checked;
      box.dispatchEvent(new Event("change", { bubbles: true }));
    }
});

document.body.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRFToken"] = document.body.dataset.csrf;
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

let went = 0;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "Escape") {
    toasts.lastElementChild?.remove();
    for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") document.getElementById("shortcuts").showModal();
  else if (event.key === "/") {
    const search = document.querySelector("main [type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  } else if (event.key === "g") went = Date.now();
  else if (Date.now() - went < 1500) document.querySelector(`[data-shortcut="${CSS.escape(event.key)}"]`)?.click();
});
