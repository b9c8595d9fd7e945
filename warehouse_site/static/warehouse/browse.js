// The list of objects: what is chosen in it stays chosen when the list is fetched anew.

const status = document.getElementById("object-status");
const list = () => document.getElementById("object-list");
const boxes = () => [...document.querySelectorAll("#chosen td input[name]")];
const nameOf = (box) => `${box.name}=${box.value}`;
let kept = new Set();
let last;

function tell() {
  const all = document.querySelector("[data-choose-all]");
  if (!all) return;
  const count = boxes().filter((box) => box.checked).length;
  document.querySelector("[data-chosen]").textContent = `${count} chosen`;
  all.checked = count > 0 && count === boxes().length;
  all.indeterminate = count > 0 && !all.checked;
}

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches?.("#chosen input[type=checkbox]")) return;
  const rows = boxes();
  if ("chooseAll" in box.dataset) for (const other of rows) other.checked = box.checked;
  else {
    const [from, to] = [rows.indexOf(last), rows.indexOf(box)].sort((a, b) => a - b);
    if (event.shiftKey && from >= 0) for (const other of rows.slice(from, to)) other.checked = box.checked;
    last = box;
  }
  tell();
});

document.body.addEventListener("htmx:configRequest", (event) => {
  const { elt, parameters } = event.detail;
  if (elt === list()) parameters.set("limit", boxes().length); // as many as are shown
  if (elt.id === "object-search" && !parameters.get("q")) parameters.delete("q");
});

document.body.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target === list()) kept = new Set(boxes().filter((box) => box.checked).map(nameOf));
});

document.body.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked ||= kept.has(nameOf(box));
  kept.clear();
  const text = list().querySelector("[data-status]").textContent.replace(/\s+/g, " ").trim();
  if (status.textContent !== text) status.textContent = text;
  tell();
});

const folders = document.querySelector(".folder-menu");
folders?.addEventListener("toggle", () => folders.open && document.getElementById("folder").focus());

addEventListener("pageshow", tell); // the browser may have kept what was chosen
