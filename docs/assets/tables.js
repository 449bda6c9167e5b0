// Sorts the tables in `<div class="models">` by a click on a column, and filters their
// rows by words. Sorting is tablesort's, see tablesort.min.js (MIT licence).
document$.subscribe(() => {
  for (const place of document.querySelectorAll(".models")) {
    const table = place.querySelector("table")
    new Tablesort(table, { descending: true })
    const rows = [...table.tBodies[0].rows]
    const texts = rows.map(row => row.textContent.toLowerCase())
    const input = document.createElement("input")
    const count = document.createElement("span")
    input.type = "search"
    input.placeholder = "Filter: cait, apache, hub ..."
    input.setAttribute("aria-label", "Filter the table")
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/)
      rows.forEach((row, i) => row.hidden = !words.every(w => texts[i].includes(w)))
      count.textContent = ` ${rows.filter(row => !row.hidden).length} of ${rows.length}`
    }
    input.addEventListener("input", filter)
    place.prepend(input, count)
    filter()
  }
})
