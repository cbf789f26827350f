// Compares what npm has installed here with integrity.txt ("name version sha512-..." per line, dependencies of
// dependencies too). npm has checked each archive against its hash. `node integrity.mjs --write` renews the file.
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("integrity.txt", import.meta.url);
const { packages } = JSON.parse(readFileSync(new URL("node_modules/.package-lock.json", import.meta.url), "utf8"));
const found = Object.entries(packages)
  .map(([path, one]) => `${path.split("node_modules/").pop()} ${one.version} ${one.integrity}\n`)
  .sort()
  .join("");
if (process.argv[2] === "--write") {
  writeFileSync(file, found);
} else if (readFileSync(file, "utf8") !== found) {
  console.error(`exo: npm installed other packages than tests/clients/node/integrity.txt says:\n${found}`);
  process.exit(1);
}
