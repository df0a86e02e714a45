"use strict";
const search = document.getElementById("search");
const failed = document.getElementById("failed");
const shown = document.getElementById("shown");
const said = document.getElementById("said");
const rows = [...document.querySelectorAll("table[data-filtered] tbody tr")];

function filter() {
  const text = search.value.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const fits = row.textContent.toLowerCase().includes(text) && (!failed.checked || row.querySelector(".bad"));
    row.hidden = !fits;
    count += fits ? 1 : 0;
  }
  shown.textContent = `${count} of ${rows.length} rows`;
}

search.addEventListener("input", filter);
failed.addEventListener("change", filter);
filter();

for (const choice of document.querySelectorAll("input[name=flame]")) {
  choice.addEventListener("change", () => {
    for (const graph of document.querySelectorAll("[data-flame]")) graph.hidden = graph.dataset.flame !== choice.value;
  });
}

for (const box of document.querySelectorAll("[data-said]")) {
  box.addEventListener("click", () => { said.textContent = box.dataset.said; });
}
