"use strict";

// Shows the API document with Swagger UI. A script of its own, so that the page needs no
// inline script.
window.addEventListener("load", () => {
  const place = document.getElementById("swagger-ui");
  window.ui = SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: true,
    persistAuthorization: true,
    validatorUrl: null,
  });
});
