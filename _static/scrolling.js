// Tables of the article in; those that scroll can be reached with the Tab key and scrolled with
// the arrow keys. The theme does the same for code, MathJax for formulas.
document.addEventListener("DOMContentLoaded", () => {
  const reach = ({ target }) => {
    if (target.scrollWidth > target.clientWidth + 1) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  };
  const watch = new ResizeObserver((entries) => entries.forEach(reach));
  for (const table of document.querySelectorAll(".bd-article :is(table.table, table.dataframe)"))
    watch.observe(table);
});
