// Pictures of the article in, a button below each that shows it as large as the window out.
// A click on the picture does the same; Escape closes, as does a click beside the picture.
document.addEventListener("DOMContentLoaded", () => {
  const dialog = document.createElement("dialog");
  dialog.className = "zoom";
  dialog.innerHTML =
    '<form method="dialog"><button>Close</button></form><div class="zoom-sheet" tabindex="0"></div>';
  const sheet = dialog.querySelector(".zoom-sheet");

  function open(picture, name) {
    const large = new Image();
    large.src = picture.currentSrc || picture.src;
    large.alt = picture.alt;
    large.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight || 1);
    sheet.replaceChildren(large);
    dialog.setAttribute("aria-label", name);
    dialog.showModal();
  }

  const boxes = new Set();
  for (const picture of document.querySelectorAll(".bd-article :is(figure, .cell_output) img"))
    boxes.add(picture.closest("figure") ?? picture.parentElement);
  for (const box of boxes) {
    const pictures = [...box.querySelectorAll("img")];
    const number = box.querySelector(".caption-number")?.textContent.trim() ?? "the picture";
    const seen = () => pictures.find((picture) => picture.offsetParent) ?? pictures[0]; // of two themes
    const button = document.createElement("button");
    button.className = "zoom-button";
    button.textContent = "Enlarge";
    button.setAttribute("aria-label", `Enlarge ${number}`);
    button.addEventListener("click", () => open(seen(), number));
    (box.querySelector("figcaption > p:last-of-type") ?? box).append(button);
    for (const picture of pictures) {
      picture.classList.add("zoomable");
      picture.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return; // its link in a new tab
        event.preventDefault();
        open(picture, number);
      });
    }
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  sheet.addEventListener("click", (event) => event.target === sheet && dialog.close());
  document.body.append(dialog);
});
