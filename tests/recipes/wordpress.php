<?php
// As much of WordPress as the recipe's plugin meets: hooks, the login, roles and fields of a user.

const COOKIE = 'wordpress_logged_in_';

$hooks = [];
$cookie = COOKIE . md5('https://' . $_SERVER['HTTP_X_FORWARDED_HOST']);
$people = ['alice' => ['ID' => 2, 'user_pass' => 'alice', 'roles' => [1 => 'subscriber']]];
$meta = [2 => ['callgate_ext' => '40', 'callgate_tenant' => 'acme']];
$secret = getenv('WP_SECRET') ?: exit(1);

function add_action(string $hook, callable $act): void { $GLOBALS['hooks'][$hook][] = $act; }
function nocache_headers(): void { header('Cache-Control: no-cache, must-revalidate, max-age=0, no-store, private'); }
function status_header(int $status): void { http_response_code($status); }

function wp_get_current_user(): ?object {
    [$name, $seal] = explode('|', $_COOKIE[$GLOBALS['cookie']] ?? '|');
    $known = isset($GLOBALS['people'][$name]) && hash_equals(hash_hmac('sha256', $name, $GLOBALS['secret']), $seal);
    return $known ? (object) (['user_login' => $name] + $GLOBALS['people'][$name]) : null;
}

function is_user_logged_in(): bool { return wp_get_current_user() !== null; }
function get_user_meta(int $id, string $key, bool $single): string { return $GLOBALS['meta'][$id][$key] ?? ''; }

function wp_send_json(mixed $value): never {
    header('Content-Type: application/json; charset=UTF-8');
    exit(json_encode($value));
}

if (str_starts_with($_SERVER['REQUEST_URI'], '/wp-login.php')) {
    $name = $_POST['log'] ?? '';
    if (($people[$name]['user_pass'] ?? null) !== ($_POST['pwd'] ?? '')) {
        exit('Unknown username.');
    }
    setcookie($cookie, $name . '|' . hash_hmac('sha256', $name, $secret), ['secure' => true, 'httponly' => true, 'path' => '/']);
    header('Location: /', true, 302);
    exit;
}
require getcwd() . '/wp-content/plugins/callgate.php';
foreach ($hooks['init'] as $act) {
    $act();
}
echo 'Hello world!';
