// Attention, similarities and lengths from vectors that are kept as bytes. Knows nothing of the page.

function bytesOf(base64) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

const codesOf = (base64) => new Int8Array(bytesOf(base64).buffer);
const floatsOf = (base64) => new Float32Array(bytesOf(base64).buffer);

// A layer's block of base64 -> its arrays: queries and keys (heads, tokens, width), bias (heads, tokens, tokens)
function openLayer(block, heads, tokens, width) {
  return {
    heads, tokens, width,
    queries: codesOf(block.queries), queryScales: floatsOf(block.queryScales),
    keys: codesOf(block.keys), keyScales: floatsOf(block.keyScales),
    mean: floatsOf(block.mean),
    bias: block.bias ? codesOf(block.bias) : null, biasScales: block.bias ? floatsOf(block.biasScales) : null,
  };
}

// What one token attends to in one head: softmax(q k / sqrt(width) + bias), one weight a token; they sum to 1
function attentionRow(layer, head, row) {
  const { tokens, width, queries, keys, keyScales } = layer;
  const first = head * tokens;
  const q = (first + row) * width;
  const scale = layer.queryScales[first + row] / Math.sqrt(width);
  const weights = new Float64Array(tokens);
  let largest = -Infinity;
  for (let j = 0; j < tokens; j++) {
    const k = (first + j) * width;
    let product = 0;
    for (let i = 0; i < width; i++) product += queries[q + i] * keys[k + i];
    let score = product * scale * keyScales[first + j];
    if (layer.bias) score += layer.bias[(first + row) * tokens + j] * layer.biasScales[first + row];
    weights[j] = score;
    if (score > largest) largest = score;
  }
  let sum = 0;
  for (let j = 0; j < tokens; j++) sum += weights[j] = Math.exp(weights[j] - largest);
  for (let j = 0; j < tokens; j++) weights[j] /= sum;
  return weights;
}

// The attention of a query in every head; a query is a token's number, or "mean" for the mean of the patches
function attentionOf(layer, query) {
  const rows = [];
  for (let head = 0; head < layer.heads; head++) {
    rows.push(query === "mean"
      ? Float64Array.from(layer.mean.subarray(head * layer.tokens, (head + 1) * layer.tokens))
      : attentionRow(layer, head, query));
  }
  return rows;
}

function meanOf(rows) {
  const mean = new Float64Array(rows[0].length);
  for (const row of rows) for (let j = 0; j < row.length; j++) mean[j] += row[j] / rows.length;
  return mean;
}

// The cosine of vector `index` with each; the scales fall out of it
function cosinesWith(codes, width, index) {
  const count = codes.length / width;
  const cosines = new Float64Array(count);
  const products = (a, b) => {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += codes[a * width + i] * codes[b * width + i];
    return sum;
  };
  const own = Math.sqrt(products(index, index));
  for (let j = 0; j < count; j++) {
    const length = own * Math.sqrt(products(j, j));
    cosines[j] = length > 0 ? products(index, j) / length : 0;
  }
  return cosines;
}
