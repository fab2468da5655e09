"use strict";

// Shows the API document with Swagger UI, in the colours that the reader prefers. A script of its
// own, so that the page needs no inline script.
(() => {
  const place = document.getElementById("swagger-ui");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);

  localStorage.removeItem("authorized"); // the token that earlier versions of this page stored
  paint();
  dark.addEventListener("change", paint);
  SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    tryItOutEnabled: true,
    validatorUrl: null,
  });
})();
