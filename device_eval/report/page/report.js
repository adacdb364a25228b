"use strict";
// A click on a heading sorts its table by that column, a second one the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const numeric = heading.classList.contains("number");
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[heading.cellIndex].dataset.key;
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...body.rows];
    const known = rows.filter((row) => key(row) !== "");
    // What is not known stays last either way.
    const unknown = rows.filter((row) => key(row) === "");
    known.sort((a, b) => (ascending ? 1 : -1) * compare(key(a), key(b)));
    body.append(...known, ...unknown);
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}
