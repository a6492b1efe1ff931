// Package serving is what the gateway has of a kube-apiserver beside the requests
// themselves: TLS from files that may change, and the pages /flagz and /statusz.
// The work is done by k8s.io/apiserver, whose door this is.
//
// What must hold:
//
//  1. A file that cannot be loaded never replaces what serves; it is logged.
//  2. Connections that are there stay when files change. New ones are judged by the
//     newest files: no session is resumed where certificates are asked for.
//  3. A list of revoked certificates is never forgotten, though its file be broken.
//
// The methods of a TLS may be called concurrently, Run once. SelfSigned and
// InstallPages are for whoever starts the server.
package serving
