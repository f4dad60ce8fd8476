"use strict";
// A click on a column's head sorts by it, a second one the other way round; what has no value stays at the end.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const order = before ? (before === "ascending" ? "descending" : "ascending") : head.dataset.first;
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const text = head.classList.contains("name");
    const key = row => row.cells[column].dataset.value;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => {
      const one = key(a), other = key(b);
      if (one === "" || other === "") return (one === "") - (other === "");
      return sign * (text ? one.localeCompare(other) : one - other);
    });
    body.append(...rows);
  }));
}
