// The form of a key: its number and its JSON follow what is chosen. Without scripts they show what was sent last.

const form = document.getElementById("key-form");
const sum = (name) => [...form.elements].filter((box) => box.name === name && box.checked).reduce((all, box) => all + Number(box.value), 0);
const text = (name) => form.elements[name]?.value ?? "";

function follow() {
  const grants = [];
  for (let row = 0; row < Number(text("rows")); row++) {
    const place = `grant-${row}-`;
    const exact = text(`${place}exact`);
    const grant = {
      bucket: text(`${place}bucket`).trim(),
      prefix: exact ? JSON.parse(exact) : text(`${place}start`),
      permissions: sum(`${place}permissions`),
    };
    if (grant.bucket || grant.prefix || grant.permissions) grants.push(grant);
  }
  const permissions = sum("permissions");
  document.getElementById("bits").value = permissions;
  document.getElementById("body").textContent = JSON.stringify({ name: text("name"), permissions, grants }, null, 2);
  document.querySelector(".ends").classList.toggle("by-date", text("lasts") === "until");
}

/** The names of buckets to choose from, asked for once somebody is about to name one. */
async function suggest(event) {
  const url = event.target.list?.dataset.url;
  if (!url) return;
  const names = event.target.list;
  delete names.dataset.url;
  const answer = await fetch(url);
  if (answer.ok) names.append(...(await answer.json()).results.map((bucket) => new Option(bucket.name)));
}

if (form) {
  form.classList.add("follows");
  form.addEventListener("input", follow);
  form.addEventListener("focusin", suggest);
  document.body.addEventListener("htmx:afterSettle", follow);
  follow();
}
