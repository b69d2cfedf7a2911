// The theme listens to the first button of each sidebar, which is hidden: hand it the clicks on
// the one in view.
document.addEventListener("DOMContentLoaded", () => {
  for (const name of ["primary-toggle", "secondary-toggle"]) {
    const [first, ...others] = document.querySelectorAll(`button.${name}`);
    for (const button of others) button.addEventListener("click", () => first.click());
  }
});
