SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  deepLinking: true,
  // Else the page has its document judged by a server of Swagger's makers.
  validatorUrl: null,
});
