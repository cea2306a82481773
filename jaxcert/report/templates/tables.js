// Sorts and searches the tables of this page; without it they are plain tables.
const FEW = 12; // rows that are looked through faster than searched
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  // "inf" and "-" are no numbers; "12.3%" and "1.20e-05" are.
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text === "inf") return Infinity;
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a.localeCompare(b);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const order = compare(value(a, column), value(b, column));
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
  if (body.rows.length <= FEW) continue;
  const tools = document.createElement("div");
  tools.className = "tools";
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "search for a name, a class, a status";
  field.setAttribute("aria-label", "search the table");
  const shown = document.createElement("output");
  const search = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${body.rows.length} rows`;
  };
  field.addEventListener("input", search);
  search();
  tools.append(field, shown);
  table.closest(".wide").before(tools);
}
// What is printed is to be explained there, too.
window.addEventListener("beforeprint", () => {
  for (const terms of document.querySelectorAll("details")) terms.open = true;
});
