// Keeps the integer beside permission checkboxes in step with them. Without scripts it shows what was saved.
"use strict";

document.addEventListener("change", (event) => {
  const field = event.target.closest(".permission-bits");
  if (field) {
    let bits = 0;
    for (const box of field.querySelectorAll("input:checked")) bits |= Number(box.value);
    field.querySelector("output").value = bits;
  }
});
