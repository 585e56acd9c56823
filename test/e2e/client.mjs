// Calls a tool of an MCP server with both generations of the TypeScript SDK.
// usage: node client.mjs v1|v2-legacy|v2-modern ENDPOINT KEY
const [era, endpoint, key] = process.argv.slice(2)
const requestInit = { headers: { Authorization: `Bearer ${key}` } }
const info = { name: 'polygate-e2e', version: '1' }

async function connect() {
  if (era === 'v1') {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js')
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js')
    const client = new Client(info)
    const transport = new StreamableHTTPClientTransport(new URL(endpoint), { requestInit })
    await client.connect(transport)
    return { client, transport }
  }
  const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client')
  const options = era === 'v2-modern' ? { versionNegotiation: { mode: 'auto' } } : {}
  const client = new Client(info, options)
  const transport = new StreamableHTTPClientTransport(new URL(endpoint), { requestInit })
  await client.connect(transport)
  return { client, transport }
}

const { client, transport } = await connect()
const { tools } = await client.listTools()
const result = await client.callTool({ name: 'test_simple_text', arguments: {} })
console.log(JSON.stringify({
  revision: transport.protocolVersion ?? client.getNegotiatedProtocolVersion?.() ?? null,
  session: Boolean(transport.sessionId),
  tools: tools.length,
  text: result.content?.[0]?.text ?? null,
}))
await client.close()
process.exit(0)
