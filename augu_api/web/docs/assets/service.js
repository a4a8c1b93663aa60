// Shared by the pages: failures and the quota in words.

const TOKEN = 401; // the page sends the header, so that its own hint fits better than the reply's
const HINTS = {
  [TOKEN]: "Enter the whole token that the operator gave you. If it was replaced by a newer one, only the newer one works.",
  406: "The service answers with JSON or a PNG only.",
  429: "Your requests for this minute are used up.",
  500: "This is a fault of the service. The operator finds the cause in its log.",
  503: "This photo was not counted against your quota.",
};

/** A failure as a title, a hint what to do, and what is left of the quota. */
export function explain(response, reply) {
  if (!reply) return { title: `The server answers with ${response.status}, but not as this service does.`, hint: "" };
  const details = Object.entries(reply.details ?? {}).map(([field, reasons]) => `${field}: ${[reasons].flat().join(" ")}`);
  const wait = response.headers.get("Retry-After");
  const hint = details.length && response.status !== TOKEN ? details.join(" ") : HINTS[response.status] ?? "";
  const again = wait === null ? "" : ` Try again in ${wait} ${wait === "1" ? "second" : "seconds"}.`;
  const title = `${response.status} ${reply.error}: ${reply.message}`;
  return { title, hint: hint + again, left: quota(response), needsToken: response.status === TOKEN };
}

/** What is left of the caller's quota, if the reply says so. */
export function quota({ headers }) {
  const [limit, left, reset] = ["Limit", "Remaining", "Reset"].map((name) => headers.get(`X-Ratelimit-${name}`));
  return limit === null ? "" : `${left} of ${limit} requests left, for ${reset} s.`;
}
