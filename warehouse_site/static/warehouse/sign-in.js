// Signing in makes a new token for forms: a second click that comes behind it would be refused. Pages with a frame have
// this in app.js.

let sentAt = -Infinity;
document.addEventListener("submit", (event) => {
  if (performance.now() - sentAt < 1000) event.preventDefault();
  else sentAt = performance.now();
});
addEventListener("pageshow", () => (sentAt = -Infinity));
